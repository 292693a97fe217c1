"""Alignments without slimming against loops over pairs, and the same whatever the tiles."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.parts import alignment
from model.parts.alignment import SIMILARITIES, aligned

LENGTHS = [2, 4, 5]


def made() -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    tokens, words = (torch.randn(size, generator=source, dtype=torch.float64) for size in ((3, 6, 8), (3, 5, 8)))
    there = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    return tokens.requires_grad_(), (words * there[..., None]).requires_grad_(), there


def attended(query: Tensor, context: Tensor, smooth: float) -> Tensor:
    """Mean cosine of query rows to what they find in the context (Lee et al. 2018), vectors made."""
    affinity = F.leaky_relu(context @ query.T, 0.1)
    affinity = affinity / (affinity.norm(dim=1, keepdim=True) + 1e-8)
    mixes = (smooth * affinity).softmax(0).T @ context
    return F.cosine_similarity(query, mixes, dim=-1).mean()


def by_pairs(kind: str, tokens: Tensor, words: Tensor) -> Tensor:
    def one(image: Tensor, text: Tensor) -> Tensor:
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        if kind == "max_mean":
            bent = F.leaky_relu(image @ text.T, 0.1)
            return (bent.max(0).values.mean() + bent.max(1).values.mean()) / 2
        ways = {"scan_t2i": attended(text, image, 9.0), "scan_i2t": attended(image, text, 4.0)}
        return ways[kind] if kind in ways else (ways["scan_t2i"] + ways["scan_i2t"]) / 2

    return torch.stack([torch.stack([one(image, text[:length]) for text, length in zip(words, LENGTHS, strict=True)])
                        for image in tokens])


@pytest.mark.parametrize("tile", [2**20, 70, 1])
@pytest.mark.parametrize("kind", SIMILARITIES)
def test_scores_and_gradients_are_those_of_the_equations(
    kind: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "TILE", {"cpu": tile})
    tokens, words, there = made()
    ours, theirs = aligned(SIMILARITIES[kind], tokens, words, there), by_pairs(kind, tokens, words)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    for mine, other in zip(*(torch.autograd.grad(s, (tokens, words), weight) for s in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine * there[..., None] if mine.shape == words.shape else mine,
                                   other * there[..., None] if other.shape == words.shape else other,
                                   rtol=0, atol=1e-8)
