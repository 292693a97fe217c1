"""model/parts/focal.py: the similarity of all pairs beside one pair after the other, step by step as published."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches.batch import Ragged
from model.parts import focal
from model.parts.focal import Focus, all_pairs, listed_pairs

EQUAL, PROB = Focus("equal", 20.0, "unmasked"), Focus("prob", 20.0, "unmasked")
FOCI = pytest.mark.parametrize("focus", [EQUAL, PROB, replace(EQUAL, scale=4.0)], ids=["equal", "prob", "mild"])
REGIONS, WORDS = [5, 3, 7, 7, 4, 2], [4, 9, 3, 6, 6]


def rows(lengths: list[int], seed: int, dim: int = 6, dtype: torch.dtype = torch.float64) -> Ragged:
    """Random unit rows."""
    source = torch.Generator().manual_seed(seed)
    values = F.normalize(torch.randn(sum(lengths), dim, generator=source, dtype=dtype) + 0.3, dim=1)
    return Ragged.of(values, torch.tensor(lengths))


def pair(regions: Tensor, words: Tensor, focus: Focus) -> Tensor:
    """The published formula for one image and one text, but for weights that only rounding tells apart."""
    return attend(words, regions, focus) + attend(regions, words, focus)


def attend(queries: Tensor, context: Tensor, focus: Focus) -> Tensor:
    bent = F.leaky_relu(context @ queries.T, 0.1)
    bent = bent / (bent.norm(dim=1, keepdim=True) + 1e-8)
    a = (focus.scale * bent.T).softmax(1)
    if focus.kind == "equal":
        kept, average = a * a.shape[1] - a.sum(1, keepdim=True) > 0, a.mean(1)
    else:
        root = a.sqrt()
        kept = a * root.sum(1, keepdim=True) - (a * root).sum(1, keepdim=True) > 0
        average = (a * root).sum(1) / root.sum(1)
    if focus.empty == "unmasked":
        kept = kept | (average >= (1 - 1e-5) * a.amax(1))[:, None]
    a = a * kept
    return F.cosine_similarity(queries, a / a.sum(1, keepdim=True) @ context, dim=1).mean()


def loop(images: Ragged, texts: Ragged, focus: Focus) -> Tensor:
    sides = [side.values.split(side.lengths.tolist()) for side in (images, texts)]
    return torch.stack([torch.stack([pair(image, text, focus) for text in sides[1]]) for image in sides[0]])


@FOCI
@pytest.mark.parametrize(("regions", "words"), [(REGIONS, WORDS), ([6] * 4, [5] * 3), ([1, 4], [3, 1, 2]), ([3], [2])],
                         ids=["ragged", "rectangles", "ones among others", "one pair"])  # fmt: skip
def test_scores_are_those_of_pair_after_pair(regions: list[int], words: list[int], focus: Focus) -> None:
    images, texts = rows(regions, 0), rows(words, 1)
    torch.testing.assert_close(all_pairs(images, texts, focus), loop(images, texts, focus), atol=1e-9, rtol=0)


@FOCI
def test_gradients_are_those_of_pair_after_pair(focus: Focus) -> None:
    images, texts = rows(REGIONS, 0), rows(WORDS, 1)
    values = images.values.requires_grad_(), texts.values.requires_grad_()
    weights = torch.randn(len(REGIONS), len(WORDS), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours, theirs = (way(images, texts, focus) for way in (all_pairs, loop))
    grads = (torch.autograd.grad((scores * weights).sum(), values) for scores in (ours, theirs))
    for mine, plain in zip(*grads, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-9, rtol=1e-7)


@FOCI
def test_the_gradient_is_that_of_finite_differences(focus: Focus) -> None:
    images, texts = rows([3, 2], 4, dim=4), rows([2, 3], 5, dim=4)

    def scores(regions: Tensor, words: Tensor) -> Tensor:
        return all_pairs(Ragged(regions, images.offsets), Ragged(words, texts.offsets), focus)

    assert torch.autograd.gradcheck(scores, (images.values.requires_grad_(), texts.values.requires_grad_()), eps=1e-7)


@pytest.mark.parametrize("most", [1, 8, 20])
def test_tiles_are_the_whole(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = rows(REGIONS, 0), rows(WORDS, 1)
    whole = all_pairs(images, texts, PROB)
    monkeypatch.setattr(focal, "_rows_of_a_tile", lambda _: most)
    torch.testing.assert_close(all_pairs(images, texts, PROB), whole, atol=1e-12, rtol=0)


def test_a_tile_has_room_for_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert focal._rows_of_a_tile("cpu") == 1024
    assert focal._rows_of_a_tile("cuda") == 2896


def test_blocks_hold_no_more_than_they_may() -> None:
    lengths = torch.tensor([1, 1, 2, 2, 2, 9, 10, 10, 10, 50])
    cuts = list(focal._cuts(lengths, 30))
    assert cuts == [(0, 2), (2, 5), (5, 8), (8, 9), (9, 10)]


@pytest.mark.parametrize("values", [1, 10**6])
def test_listed_pairs_are_cells_of_the_whole(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(focal, "PAIR_VALUES", values)
    images, texts = rows(REGIONS, 0), rows(WORDS, 1)
    image, text = torch.tensor([5, 0, 0, 3, 2, 5]), torch.tensor([4, 4, 1, 0, 1, 2])
    whole = all_pairs(images, texts, EQUAL)
    torch.testing.assert_close(listed_pairs(images, texts, image, text, EQUAL), whole[image, text], atol=1e-12, rtol=0)


def test_listed_pairs_have_the_gradients_of_the_whole() -> None:
    images, texts = rows(REGIONS, 0), rows(WORDS, 1)
    values = images.values.requires_grad_(), texts.values.requires_grad_()
    image, text = torch.tensor([1, 4, 1]), torch.tensor([0, 3, 1])
    ours = torch.autograd.grad(listed_pairs(images, texts, image, text, PROB).sum(), values)
    whole = torch.autograd.grad(all_pairs(images, texts, PROB)[image, text].sum(), values)
    for listed, cells in zip(ours, whole, strict=True):
        torch.testing.assert_close(listed, cells, atol=1e-12, rtol=0)


def alike() -> tuple[Ragged, Ragged]:
    """Two images; the second's regions are all the same, and so are the words of the second text."""
    images, texts = rows([3, 4], 0), rows([4, 3], 1)
    images.values[3:] = images.values[3]
    texts.values[4:] = texts.values[4]
    return images, texts


@FOCI
def test_where_all_weights_are_equal_all_are_kept(focus: Focus) -> None:
    images, texts = alike()
    torch.testing.assert_close(all_pairs(images, texts, focus), loop(images, texts, focus), atol=1e-9, rtol=0)
    images.values.requires_grad_()
    all_pairs(images, texts, focus).sum().backward()
    assert torch.isfinite(images.values.grad).all()


@pytest.mark.parametrize("kind", ["equal", "prob"])
def test_where_all_weights_are_equal_the_published_answer_is_nan(kind: str) -> None:
    images, texts = alike()
    found = all_pairs(images, texts, Focus(kind, 20.0, "nan"))  # type: ignore[arg-type]
    assert found.isnan().tolist() == [[False, True], [True, True]]
    assert torch.equal(found[0, 0], all_pairs(images, texts, Focus(kind, 20.0, "unmasked"))[0, 0])  # type: ignore[arg-type]
    pairs = listed_pairs(images, texts, torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), Focus(kind, 20.0, "nan"))  # type: ignore[arg-type]
    assert pairs.isnan().tolist() == [False, True, True]


def test_of_one_region_rounding_does_not_decide() -> None:
    """Of one query every weight is 1 but for rounding: all words are kept."""
    texts = rows([9], 1, dtype=torch.float32)
    texts.values.abs_()
    image = F.normalize(torch.ones(1, 6), dim=1)
    found = all_pairs(Ragged.of(image, torch.tensor([1])), texts, EQUAL)[0, 0]
    everything = F.normalize(texts.values.sum(0), dim=0) @ image[0] + (texts.values @ image[0]).mean()
    torch.testing.assert_close(found, everything, atol=1e-6, rtol=0)


def test_a_row_of_zeros_meets_nothing_and_hurts_nothing() -> None:
    images, texts = rows([4, 3], 0), rows([3, 4], 1)
    images.values[1] = 0
    texts.values[:] = torch.where(torch.arange(7)[:, None] == 2, 0.0, texts.values)
    values = images.values.requires_grad_(), texts.values.requires_grad_()
    found = all_pairs(images, texts, EQUAL)
    torch.testing.assert_close(found, loop(images, texts, EQUAL), atol=1e-9, rtol=0)
    found.sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in values)


@pytest.mark.parametrize("scale", [20.0, 200.0, 2000.0])
def test_no_scale_overflows(scale: float) -> None:
    images, texts = rows(REGIONS, 0, dtype=torch.float32), rows(WORDS, 1, dtype=torch.float32)
    images.values.requires_grad_()
    found = all_pairs(images, texts, replace(EQUAL, scale=scale))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(images.values.grad).all()


def test_half_precision_rows_are_scored_in_float32() -> None:
    images, texts = rows(REGIONS, 0, dtype=torch.float32), rows(WORDS, 1, dtype=torch.float32)
    half = [Ragged(side.values.half(), side.offsets) for side in (images, texts)]
    again = [Ragged(side.values.float(), side.offsets) for side in half]
    with torch.autocast("cpu", torch.bfloat16):
        found = all_pairs(half[0], half[1], EQUAL)
    assert found.dtype == torch.float32
    assert torch.equal(found, all_pairs(again[0], again[1], EQUAL))


def test_the_gradient_needs_no_more_than_one_tile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps is the sides, not the products of every pair."""
    monkeypatch.setattr(focal, "_rows_of_a_tile", lambda _: 64)
    images, texts = rows([8] * 64, 0, dtype=torch.float32), rows([8] * 64, 1, dtype=torch.float32)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        all_pairs(Ragged(images.values.requires_grad_(), images.offsets), texts, EQUAL)
    assert sum(kept.values()) < 4 * 64 * 64 * 8 * 8 / 4
