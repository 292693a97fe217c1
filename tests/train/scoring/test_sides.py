"""train/scoring/sides.py: a side is the same whoever encodes which part of it, and takes the room that it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batches.batch import Ragged
from data.batches.pairs import Array
from model.matcher import Side
from tests.ranks import on_ranks
from train.distributed.comm import Comm, Solo
from train.scoring.sides import GrowingRows, encode_side, gather_rows

LENGTHS = np.random.default_rng(0).integers(1, 6, 23)


def encode(chunk: Array) -> Side:
    """Item n is `LENGTHS[n]` rows of n, and the vector (n, number of items in the chunk)."""
    lengths = torch.from_numpy(LENGTHS[chunk])
    numbers = torch.from_numpy(chunk).float()
    rows = numbers.repeat_interleave(lengths)[:, None].expand(-1, 3)
    return Side(Ragged.of(rows, lengths), torch.stack([numbers, torch.full_like(numbers, len(chunk))], 1))


@pytest.mark.parametrize("ranks", [1, 2, 4, 9])
@pytest.mark.parametrize("chunk", [1, 4, 23, 100])
def test_all_ranks_have_all_items_of_the_same_chunks(ranks: int, chunk: int) -> None:
    order = np.random.default_rng(1).permutation(23)
    expected = Side.cat([encode(order[start : start + chunk]) for start in range(0, 23, chunk)])
    encoded_by: list[list[int]] = [[] for _ in range(ranks)]

    def work(comm: Comm) -> Side:
        def noted(some: Array) -> Side:
            encoded_by[comm.rank].append(len(some))
            return encode(some)

        return encode_side(noted, order, LENGTHS[order], chunk, comm)

    for side in on_ranks(ranks, work):
        assert side.pooled is not None
        assert torch.equal(side.rows.values, expected.rows.values)
        assert torch.equal(side.rows.offsets, expected.rows.offsets)
        assert torch.equal(side.pooled, expected.pooled)  # type: ignore[arg-type]
    assert max(map(len, encoded_by)) == -(-len(range(0, 23, chunk)) // ranks), "none encodes more than its share"
    if ranks == 1:
        assert encoded_by == [[len(order[start : start + chunk]) for start in range(0, 23, chunk)]]


def test_sides_of_tokens_or_of_vectors_alone_stay_so() -> None:
    def one_of(kind: str) -> Side:
        def work(chunk: Array) -> Side:
            side = encode(chunk)
            return Side(side.tokens) if kind == "tokens" else Side(pooled=side.pooled)

        return on_ranks(2, lambda comm: encode_side(work, np.arange(23), LENGTHS, 4, comm))[1]

    assert one_of("tokens").pooled is None
    assert one_of("pooled").tokens is None
    assert len(one_of("tokens")) == len(one_of("pooled")) == 23


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_any_type_are_gathered_as_they_are(kind: torch.dtype) -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(kind)
    found = on_ranks(2, lambda comm: gather_rows(rows[comm.rank :: 2], comm, "rows"))
    for each in found:
        assert each.dtype == kind
        assert torch.equal(each, torch.cat([rows[::2], rows[1::2]]))


def test_nothing_is_an_empty_side() -> None:
    side = encode_side(encode, np.arange(0), LENGTHS[:0], 4, Solo())
    assert (side.tokens, side.pooled) == (None, None)


def parts(*lengths: int) -> list[Tensor]:
    return [torch.full((length, 2), float(number)) for number, length in enumerate(lengths)]


def test_room_is_taken_once_where_it_can_be_foretold() -> None:
    growing, places = GrowingRows(), set()
    for number, part in enumerate(parts(5, 5, 5, 2), 1):
        growing.add(part, min(5 * number, 17) / 17)
        assert growing.rows is not None
        places.add(growing.rows.data_ptr())
        assert len(growing.rows) == min(5 * number, 17)
    assert len(places) == 1
    assert torch.equal(growing.rows, torch.cat(parts(5, 5, 5, 2)))  # type: ignore[arg-type]
    assert growing.rows.untyped_storage().nbytes() <= 18 * 2 * 4  # type: ignore[union-attr]


def test_room_grows_where_it_was_foretold_too_small() -> None:
    growing = GrowingRows()
    for part, done in zip(parts(1, 7, 9), (0.5, 0.6, 1.0), strict=True):
        growing.add(part, done)
    assert torch.equal(growing.rows, torch.cat(parts(1, 7, 9)))  # type: ignore[arg-type]
