"""Extractor folders are listed in order, and bad files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from config.errors import DataError
from data.source.butd_npz import list_npz, read_npz
from tests.arrays import extracted, write_npz_folder


def test_lists_files_in_order_of_name(tmp_path: Path) -> None:
    names = write_npz_folder(tmp_path / "raw")
    (tmp_path / "raw" / "notes.txt").touch()
    assert [path.name for path in list_npz(tmp_path / "raw")] == names


def test_folders_without_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        list_npz(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no \.npz file"):
        list_npz(tmp_path)


def test_reads_arrays_and_scalars(tmp_path: Path) -> None:
    image = extracted(0)
    np.savez_compressed(tmp_path / "a.npz", allow_pickle=False, **image, nbb=np.array(3))
    got = read_npz(tmp_path / "a.npz")
    assert got.keys() == {*image, "nbb"}
    assert all(np.array_equal(got[name], array) for name, array in image.items())
    assert int(got["nbb"]) == 3


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not an archive of plain arrays"):
        read_npz(tmp_path / "a.npz")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, info=np.array({"a": 1}, dtype=object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        read_npz(tmp_path / "a.npz")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(tmp_path / "a.npz")
