"""train/isda.py: attention among annotated objects, by loops and by its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from train.isda import ObjectAttention, isda, object_attention

WORDS = torch.tensor([[0, 1, -1], [3, -1, -1], [2, 4, 5]])
REGIONS = torch.tensor([[1, -1], [0, 2], [3, -1]])


def rows(size: int, seed: int) -> Tensor:
    return (2 * torch.randn(size, size, generator=torch.Generator().manual_seed(seed))).softmax(1)


def plain(attention: Tensor, members: Tensor) -> list[list[float]]:
    groups = [[place for place in row if place >= 0] for row in members.tolist()]
    found = [[sum(attention[a, b].item() for a in one for b in other) / len(one) for other in groups] for one in groups]
    return [[value / sum(row) for value in row] for row in found]


def distance(one: list[list[float]], other: list[list[float]]) -> float:
    pairs = [pair for rows in zip(one, other, strict=True) for pair in zip(*rows, strict=True)]
    return sum((p - q) * (math.log(p + 1e-12) - math.log(q + 1e-12)) for p, q in pairs)


def test_it_agrees_with_loops() -> None:
    texts, images = rows(6, 0), rows(4, 1)
    found = ObjectAttention(object_attention(texts[None], WORDS[None]), object_attention(images[None], REGIONS[None]))
    torch.testing.assert_close(found.words[0], torch.tensor(plain(texts, WORDS), dtype=torch.float64))
    torch.testing.assert_close(found.regions[0], torch.tensor(plain(images, REGIONS), dtype=torch.float64))
    assert isda(found)[0].item() == pytest.approx(distance(plain(texts, WORDS), plain(images, REGIONS)), rel=1e-6)


def test_padded_pairs_and_objects_add_nothing() -> None:
    """A pair of three objects beside one of two, whose third and whose spare tokens are padding."""
    texts, images = rows(6, 0), rows(4, 1)
    two = torch.tensor([[0, 1, -1], [3, -1, -1], [-1, -1, -1]]), torch.tensor([[1, -1], [0, 2], [-1, -1]])
    together = ObjectAttention(
        object_attention(torch.stack([texts, texts]), torch.stack([WORDS, two[0]])),
        object_attention(torch.stack([images, images]), torch.stack([REGIONS, two[1]])),
    )
    alone = distance(plain(texts, WORDS[:2]), plain(images, REGIONS[:2]))
    assert isda(together)[1].item() == pytest.approx(alone, rel=1e-6)
    assert isda(together)[0].item() == pytest.approx(distance(plain(texts, WORDS), plain(images, REGIONS)), rel=1e-6)


def test_equal_relations_have_no_distance_and_opposite_ones_a_large_one() -> None:
    near, far = torch.tensor([[0.99, 0.01], [0.01, 0.99]]), torch.tensor([[0.01, 0.99], [0.99, 0.01]])
    members = torch.tensor([[[0], [1]]])
    same = object_attention(near[None], members)
    assert isda(ObjectAttention(same, same)).item() == 0
    assert isda(ObjectAttention(same, object_attention(far[None], members))).item() > 10
