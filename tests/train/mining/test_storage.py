"""train/mining/storage.py: room that is taken before it is needed, and files that are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import DataError, Failure
from train.mining.storage import load_some, load_tensors, open_memmap, reserve, save_tensors


def test_a_reserved_array_has_all_its_room(tmp_path: Path) -> None:
    path = tmp_path / "list.npy"
    reserve(path, (300, 70), np.int32)
    assert path.stat().st_blocks * 512 >= 300 * 70 * 4
    values = open_memmap(path, writable=True)
    values[7] = 9
    values.flush()
    assert np.load(path, allow_pickle=False)[7].tolist() == [9] * 70
    reserve(path, (300, 70), np.int32)
    assert open_memmap(path)[7, 0] == 9, "one of the same shape is left as it is"
    reserve(path, (300, 71), np.int32)
    assert open_memmap(path).shape == (300, 71)


def test_what_is_written_to_an_array_for_reading_stays_in_memory(tmp_path: Path) -> None:
    reserve(tmp_path / "x.npy", (2,), np.float32)
    open_memmap(tmp_path / "x.npy")[0] = 5
    assert open_memmap(tmp_path / "x.npy")[0] == 0


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Failure, match=r"list\.npy: cannot be written \(No space left on device\); free space .*: what "
                                      r"is done is kept"):
        reserve(tmp_path / "list.npy", (3, 3), np.int32)
    assert list(tmp_path.iterdir()) == []


def test_tensors_go_and_come(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.arange(5).view(5, 1).T, "b": torch.tensor(True)})
    assert load_tensors(path)["a"].tolist() == [[0, 1, 2, 3, 4]]
    assert load_some(path, ["b"])[0].item() is True
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.safetensors"]


def test_tensors_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"x\.safetensors: cannot be written"):
        save_tensors(tmp_path / "nowhere" / "x.safetensors", {"a": torch.zeros(1)})


@pytest.mark.parametrize("read", [load_tensors, lambda path: load_some(path, ["a"])])
def test_a_file_that_is_cut_off(read: object, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.arange(50)})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"state\.safetensors: not whole"):
        read(path)  # type: ignore[operator]
