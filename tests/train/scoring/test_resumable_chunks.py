"""train/scoring/resumable_chunks.py: each piece once, by whoever it falls to, whenever it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.batches.pairs import Array
from tests.train.conftest import Pretended
from train.distributed.comm import Solo
from train.scoring.resumable_chunks import ResumableChunks

NAMES = [f"piece-{number}.npy" for number in range(7)]


def piece(number: int) -> Array:
    return np.full((number, 2), number)


def test_ranks_share_the_pieces_and_read_them_all(tmp_path: Path) -> None:
    each = [ResumableChunks(tmp_path, NAMES, Pretended(rank, 3)) for rank in range(3)]
    told: list[list[tuple[int, int]]] = [[], [], []]
    for pieces, heard in zip(each, told, strict=True):
        assert pieces.left == pieces.mine
        pieces.make(pieces.left, piece, lambda *at, heard=heard: heard.append(at))  # type: ignore[misc]
        assert pieces.left == []
    assert told == [[(1, 3), (2, 3), (3, 3)], [(1, 2), (2, 2)], [(1, 2), (2, 2)]]
    for number, values in enumerate(each[1].read()):
        assert np.array_equal(values, piece(number))
    each[0].clear()
    assert not tmp_path.exists()


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    pieces = ResumableChunks(tmp_path, NAMES, Solo())

    def until_five(number: int) -> Array:
        if number == 5:
            raise KeyboardInterrupt
        return piece(number)

    with pytest.raises(KeyboardInterrupt):
        pieces.make(pieces.left, until_five, lambda *_: None)
    assert pieces.left == [5, 6]
    told = []
    pieces.make(pieces.left, piece, lambda *at: told.append(at))
    assert told == [(6, 7), (7, 7)]
    assert [len(values) for values in pieces.read()] == list(range(7))


def test_a_damaged_piece_is_made_again(tmp_path: Path) -> None:
    pieces = ResumableChunks(tmp_path, NAMES, Solo())
    pieces.make(pieces.left, piece, lambda *_: None)
    (tmp_path / NAMES[2]).write_bytes((tmp_path / NAMES[3]).read_bytes()[:-1])
    assert pieces.left == [2]
    pieces.make(pieces.left, piece, lambda *_: None)
    assert [len(values) for values in pieces.read()] == list(range(7))
