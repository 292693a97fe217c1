"""data/batches/candidates.py: lists that fit the stores, with a manifest or not, and a line for each that does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from config.errors import DataError
from data.batches.candidates import MANIFEST, ORDER, Candidates, open_candidates
from data.batches.pairs import PairIndex
from tests.items import random_candidates, write_candidates


@pytest.fixture
def candidates(index: PairIndex) -> Candidates:
    return random_candidates(index)


def test_lists_are_memory_mapped_and_checked_by_their_manifest(
    index: PairIndex, candidates: Candidates, tmp_path: Path
) -> None:
    folder = write_candidates(tmp_path / "lists", candidates, index.order_hash)
    found = open_candidates(folder, index, 10, 2)
    assert found.checked
    assert isinstance(found.i2t, np.memmap)
    np.testing.assert_array_equal(found.i2t, candidates.i2t)
    np.testing.assert_array_equal(found.t2i, candidates.t2i)


def test_published_lists_come_without_a_manifest(index: PairIndex, candidates: Candidates, tmp_path: Path) -> None:
    assert not open_candidates(write_candidates(tmp_path / "lists", candidates), index, 3, 1).checked


def refused(folder: Path, index: PairIndex, texts: int = 10, images: int = 2) -> str:
    with pytest.raises(DataError) as caught:
        open_candidates(folder, index, texts, images)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_not_there(index: PairIndex, tmp_path: Path) -> None:
    assert "there is no such folder; name the one that train/mine.py wrote" in refused(tmp_path / "none", index)


def test_lists_of_another_order(index: PairIndex, candidates: Candidates, tmp_path: Path) -> None:
    folder = write_candidates(tmp_path / "lists", candidates, "0" * 32)
    assert "mined over other stores, or another order of them; mine them again" in refused(folder, index)


def test_a_manifest_that_is_cut_off(index: PairIndex, candidates: Candidates, tmp_path: Path) -> None:
    folder = write_candidates(tmp_path / "lists", candidates, index.order_hash)
    (folder / MANIFEST).write_text(json.dumps({ORDER: index.order_hash})[:-5])
    assert "is not JSON" in refused(folder, index)


def test_a_list_that_is_missing_or_there_twice(index: PairIndex, candidates: Candidates, tmp_path: Path) -> None:
    folder = write_candidates(tmp_path / "lists", candidates, index.order_hash)
    (folder / "t2i_other.npy").write_bytes((folder / "t2i_toy.npy").read_bytes())
    assert "holds 2 files t2i_*.npy, one is wanted" in refused(folder, index)
    for path in folder.glob("t2i_*"):
        path.unlink()
    assert "holds 0 files t2i_*.npy, one is wanted" in refused(folder, index)


def test_a_list_that_is_cut_off(index: PairIndex, candidates: Candidates, tmp_path: Path) -> None:
    folder = write_candidates(tmp_path / "lists", candidates, index.order_hash)
    path = folder / "i2t_toy.npy"
    path.write_bytes(path.read_bytes()[:-40])
    assert "i2t_toy.npy: not a whole list" in refused(folder, index)


@pytest.mark.parametrize(("changed", "told"), [
    (lambda values: values.astype(np.int64), "int64 [24, 10] is no list of int32 candidates"),
    (lambda values: values[0], "int32 [10] is no list of int32 candidates"),
    (lambda values: values[:-1], "has 23 rows but the stores want 24; mined over other stores"),
    (lambda values: values - 60, "outside of 0 .. 47"),
    (lambda values: values + 48, "outside of 0 .. 47"),
])
def test_a_list_that_does_not_fit(changed: object, told: str, index: PairIndex, candidates: Candidates,
                                  tmp_path: Path) -> None:
    spoilt = Candidates(changed(candidates.i2t), candidates.t2i, True)  # type: ignore[operator]
    assert told in refused(write_candidates(tmp_path / "lists", spoilt, index.order_hash), index)


def test_too_few_columns(index: PairIndex, candidates: Candidates, tmp_path: Path) -> None:
    folder = write_candidates(tmp_path / "lists", candidates, index.order_hash)
    assert "i2t_toy.npy: has 10 columns, offline_range wants 11; lower it" in refused(folder, index, 11)
    assert "t2i_toy.npy: has 2 columns, offline_range over offline_rank_ratio wants 3" in refused(folder, index, 10, 3)
