"""data/files.py: small files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import DataError
from data.files import open_array, read_checked_array, read_json, write_array, write_checked_array, write_json
from tests.operations import Recorder, at_each


def test_json_round_trip_leaves_no_other_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"café": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"café": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_a_missing_or_broken_file_is_named_with_the_remedy(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"ids\.json .*; evaluate again$"):
        read_json(path, "evaluate again")


def test_what_was_good_stays_until_the_new_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, plain = tmp_path / "a.npy", tmp_path / "a.json"
    write_json(plain, {"a": 1})
    write_array(numbers, np.zeros(3))
    with pytest.raises(TypeError):
        write_json(plain, {"a": object()})

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    for again in (lambda: write_json(plain, {"a": 2}), lambda: write_array(numbers, np.ones(3))):
        with pytest.raises(KeyboardInterrupt):
            again()
    assert read_json(plain) == {"a": 1}
    assert not np.load(numbers, allow_pickle=False).any()


def test_a_file_is_on_disk_before_it_gets_its_name_and_that_after(tmp_path: Path) -> None:
    """What would be there without power: the old file, or all of the new one."""
    write_json(tmp_path / "a.json", 1)
    record = Recorder()
    with at_each(record.act):
        write_json(tmp_path / "a.json", 2)
    done = [(call.name, call.folder) for call in record.calls if call.name != "close"]
    beside = tmp_path / "a.json.partial"
    assert done == [("fsync", beside), ("replace", tmp_path), ("fsync", tmp_path)]


def test_an_array_with_its_checksum_is_one_that_others_read(tmp_path: Path) -> None:
    path, values = tmp_path / "a.npy", np.arange(6.0).reshape(2, 3)
    write_checked_array(path, values)
    np.testing.assert_array_equal(read_checked_array(path), values)
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), values)
    path.write_bytes(path.read_bytes()[:-5] + b"\0" + path.read_bytes()[-4:])
    with pytest.raises(DataError, match=r"a\.npy is not whole: its checksum does not match its bytes; remove it and"):
        read_checked_array(path)


@pytest.mark.parametrize("content", [
    b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x0a\x00{'descr': (", b"\x93NUMPY\x01\x00\xff\xff",
])
def test_what_is_no_array_is_an_error_that_readers_expect(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        open_array(tmp_path / "a.npy")


def test_archives_are_no_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a", allow_pickle=False, x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="magic string"):
        open_array(tmp_path / "a.npy")
