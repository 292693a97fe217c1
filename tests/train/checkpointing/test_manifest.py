"""train/checkpointing/manifest.py: a folder is what was written, or it is told what is wrong with it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import crc32c
import pytest

from config.errors import DataError
from train.checkpointing.manifest import MARK, Flaw, FolderWriter, read_manifest, verify, verify_file

LARGE = bytes(range(256)) * 40_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = FolderWriter(tmp_path / "whole")
    for name, content in {"small": b"words", "large": LARGE, "empty": b""}.items():
        with made.file(name) as file:
            file.write(content[:1])
            file.write(content[1:])
    made.seal({"step": 7})
    return tmp_path / "whole"


def test_the_mark_tells_sizes_checksums_and_notes(folder: Path) -> None:
    mark = verify(folder)
    assert mark == read_manifest(folder)
    assert mark.notes == {"step": 7}
    assert mark.files["large"] == (len(LARGE), crc32c.crc32c(LARGE))
    assert mark.files["empty"] == (0, 0)
    assert (folder / "large").read_bytes() == LARGE
    assert sorted(path.name for path in folder.iterdir()) == [MARK, "empty", "large", "small"]
    assert json.loads((folder / MARK).read_text())["files"]["small"]["size"] == 5


def test_what_lies_there_from_before_is_removed(folder: Path) -> None:
    FolderWriter(folder)
    assert list(folder.iterdir()) == []


def test_a_file_that_could_not_be_written_whole_is_not_counted(tmp_path: Path) -> None:
    made = FolderWriter(tmp_path / "half")
    with pytest.raises(RuntimeError), made.file("broken"):
        raise RuntimeError
    assert made.files == {}


def test_a_file_is_written_once(tmp_path: Path) -> None:
    made = FolderWriter(tmp_path / "half")
    with made.file("a") as file:
        file.write(b"1")
    with pytest.raises(FileExistsError), made.file("a"):
        pass


def spoil(folder: Path, name: str, way: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    if way == "missing":
        path.unlink()
    elif way == "a folder":
        path.unlink()
        path.mkdir()
    elif way == "cut off":
        path.write_bytes(content[:-1])
    elif way == "longer":
        path.write_bytes(content + b"\0")
    else:
        content[-1] ^= 4
        path.write_bytes(content)


@pytest.mark.parametrize(("way", "told", "light"), [
    ("missing", "small is missing", True), ("cut off", "small has 4 bytes, and 5 were written", True),
    ("longer", "small has 6 bytes, and 5 were written", True), ("flipped", "small does not match its checksum", False)])
def test_what_is_wrong_with_a_file_is_told(way: str, told: str, light: bool, folder: Path) -> None:
    spoil(folder, "small", way)
    with pytest.raises(Flaw, match=f"^{told}$"):
        verify(folder)
    if light:
        with pytest.raises(Flaw, match=told):
            verify(folder, deep=False)
    else:
        assert verify(folder, deep=False).notes == {"step": 7}
    with pytest.raises(DataError, match=rf"{re.escape(str(folder))}: {told}; copy the checkpoint again, or name"):
        verify_file(folder / "small")
    assert verify_file(folder / "large") == folder / "large"


@pytest.mark.parametrize(("way", "told"), [
    ("missing", "is missing"), ("cut off", "is damaged"), ("flipped", "is damaged"),
    ("a folder", "cannot be read (Is a directory)")])
def test_what_is_wrong_with_the_mark_is_told(way: str, told: str, folder: Path) -> None:
    spoil(folder, MARK, way)
    with pytest.raises(Flaw, match=re.escape(f"{MARK} {told}")):
        verify(folder)
    if way == "missing":
        assert verify_file(folder / "small") == folder / "small", "a folder that nobody sealed"
    else:
        with pytest.raises(DataError, match=r"damaged; copy|cannot be read .*; make it readable"):
            verify_file(folder / "small")


@pytest.mark.parametrize("plain", ["[]", "5", "{}", '{"files": 3, "checksum": 1}', '{"files": {"a": 1}, "checksum": 1}',
                                   '{"files": {"a": {"size": 1}}, "checksum": 1}', "\ud7ff"])
def test_a_mark_that_says_something_else_is_damaged(plain: str, folder: Path) -> None:
    (folder / MARK).write_text(plain)
    with pytest.raises(Flaw, match="is damaged"):
        read_manifest(folder)


def test_a_mark_may_be_laid_out_anew(folder: Path) -> None:
    (folder / MARK).write_text(json.dumps(json.loads((folder / MARK).read_text()), indent=3, sort_keys=True))
    assert verify(folder).notes == {"step": 7}


def test_a_file_that_was_added_is_nobodys_business(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert verify(folder).notes == {"step": 7}
    assert verify_file(folder / "notes.txt").read_text() == "mine"


def test_a_disk_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr("train.checkpointing.manifest.crc_of", broken)
    with pytest.raises(Flaw, match=r"small cannot be read \(Input/output error\)"):
        verify(folder)
