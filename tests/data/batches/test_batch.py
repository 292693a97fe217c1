"""data/batches/batch.py: ragged rows, pools, and the laws of selecting from them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data.batches.batch import Batch, Images, Pool, Ragged, offsets_of, ranges

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def ragged(lengths: list[int]) -> tuple[Ragged, list[Tensor]]:
    parts = [torch.randn(length, 3) for length in lengths]
    return Ragged.of(torch.cat(parts), torch.tensor(lengths)), parts


def example() -> Batch:
    words, regions = torch.tensor([2, 3, 1, 4]), torch.tensor([3, 1, 2])
    texts = Ragged.of(torch.arange(10), words)
    images = Images(Ragged.of(torch.randn(6, 5), regions), torch.randn(6, 7))
    pool = Pool.of(torch.tensor([[0, 0, 0], [2, 1, 0]]), torch.tensor([[0, 2, 3], [3, 3, 3]]), words, "t")
    return Batch(images, texts, torch.arange(3), torch.tensor([0, 0, 1, 2]), pool)


@given(LENGTHS, st.data())
def test_select_takes_each_sequence_whole(lengths: list[int], data: st.DataObject) -> None:
    packed, parts = ragged(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    got = packed.select(torch.tensor(chosen))
    assert torch.equal(got.values, torch.cat([parts[i] for i in chosen]))
    assert got.lengths.tolist() == [lengths[i] for i in chosen]


@given(LENGTHS, st.data())
def test_slice_is_select_without_a_copy(lengths: list[int], data: st.DataObject) -> None:
    packed, _ = ragged(lengths)
    start = data.draw(st.integers(0, len(lengths) - 1))
    end = data.draw(st.integers(start + 1, len(lengths)))
    view, copy = packed.slice(start, end), packed.select(torch.arange(start, end))
    assert torch.equal(view.values, copy.values)
    assert torch.equal(view.offsets, copy.offsets)
    memory = view.values.untyped_storage().data_ptr()
    assert view.values.numel() == 0 or memory == packed.values.untyped_storage().data_ptr()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_padded_holds_every_value_once_and_the_fill_elsewhere(lengths: list[int]) -> None:
    packed, parts = ragged(lengths)
    values, mask = packed.padded(fill=7.0)
    assert values.shape[:2] == (len(lengths), max(lengths))
    for row, part in enumerate(parts):
        assert torch.equal(values[row, : len(part)], part)
    assert bool((values[~mask] == 7.0).all())


def test_cat_and_offsets() -> None:
    first, second = ragged([2, 0])[0], ragged([3])[0]
    both = Ragged.cat([first, second])
    assert both.offsets.tolist() == [0, 2, 2, 5]
    assert torch.equal(both.values, torch.cat([first.values, second.values]))


def test_ranges_counts_from_each_start() -> None:
    assert ranges(torch.tensor([5, 0, 9]), torch.tensor([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert offsets_of(torch.tensor([], dtype=torch.int64)).tolist() == [0]


def test_positive_follows_the_owner() -> None:
    assert example().positive.int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_hardest_keeps_the_named_pairs_and_nothing_else() -> None:
    batch = example()
    hard = batch.hardest(torch.tensor([[0, 2], [0, 1]]))
    assert batch.pool is not None
    assert hard.pool is not None
    assert len(hard.texts) == 2
    assert len(hard.images) == 3
    for row, columns in enumerate([[0, 2], [0, 1]]):
        for at, column in enumerate(columns):
            old_text, new_text = batch.pool.text[row, column], hard.pool.text[row, at]
            old_image, new_image = batch.pool.image[row, column], hard.pool.image[row, at]
            assert torch.equal(batch.texts.select(old_text[None]).values, hard.texts.select(new_text[None]).values)
            assert torch.equal(batch.images.select(old_image[None]).boxes, hard.images.select(new_image[None]).boxes)
    assert torch.equal(hard.pool.frame, batch.pool.frame)


def test_select_keeps_the_numbers_that_tell_images_apart() -> None:
    part = example().select(torch.tensor([1, 2]), torch.tensor([1, 2, 3]))
    assert part.number.tolist() == [1, 2]
    assert part.owner.tolist() == [0, 1, 2]
    assert part.positive.tolist() == [[False, True, False], [False, False, True]]


def test_a_batch_without_pools_has_no_hardest() -> None:
    batch = example()
    with pytest.raises(ValueError, match="without pools"):
        Batch(batch.images, batch.texts, batch.number, batch.owner).hardest(torch.tensor([[0]]))


def test_pool_frame_remembers_longest_and_last_text() -> None:
    pool = Pool.of(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[1, 0, 2]]), torch.tensor([4, 6, 2]), "i")
    assert pool.frame.tolist() == [[6, 2]]
