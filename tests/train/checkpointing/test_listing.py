"""train/checkpointing/listing.py: the order of saving, whatever the steps, and who stands in for whom."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from config.errors import DataError
from train.checkpointing.listing import list_checkpoints, locate_checkpoint, looks_whole, newest_whole
from train.checkpointing.manifest import FolderWriter


def sealed(folder: Path, name: str, number: int | None) -> Path:
    made = FolderWriter(folder / name)
    with made.file("a") as file:
        file.write(b"content")
    made.seal({} if number is None else {"number": number})
    return folder / name


def names(folder: Path) -> list[str]:
    return [one.path.name for one in list_checkpoints(folder)]


def test_they_are_in_the_order_of_saving(tmp_path: Path) -> None:
    for name, number in (("step-00000030", 3), ("step-00000012", 4), ("step-00000020", 2), ("step-123456789", 1)):
        sealed(tmp_path, name, number)
    assert names(tmp_path) == ["step-123456789", "step-00000020", "step-00000030", "step-00000012"]
    assert newest_whole(tmp_path, print) == tmp_path / "step-00000012"


def test_those_whose_marks_tell_nothing_stand_first_and_are_looked_at_first(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        sealed(tmp_path, f"step-0000000{step}", step)
    (tmp_path / "step-00000002" / "complete.json").write_text("{")
    assert names(tmp_path) == ["step-00000002", "step-00000001", "step-00000003"]
    said: list[str] = []
    assert newest_whole(tmp_path, said.append) == tmp_path / "step-00000003"
    assert said == [f"{tmp_path}/step-00000002: complete.json is damaged; going on with step-00000003"]


def test_others_are_not_looked_at(tmp_path: Path) -> None:
    for name in ("step-1", "step-00000001-copy", ".step-00000001.partial", "best"):
        sealed(tmp_path, name, 9)
    (tmp_path / "step-00000002").write_text("a file")
    assert names(tmp_path) == []
    assert newest_whole(tmp_path, print) is None
    assert newest_whole(tmp_path / "nothing", print) is None


def test_a_sealed_folder_from_elsewhere_is_the_oldest(tmp_path: Path) -> None:
    sealed(tmp_path, "step-00000009", None)
    sealed(tmp_path, "step-00000001", 1)
    assert names(tmp_path) == ["step-00000009", "step-00000001"]


def test_one_that_was_put_aside_stands_in_for_its_step(tmp_path: Path) -> None:
    aside = sealed(tmp_path, "step-00000001.before", 1)
    assert locate_checkpoint(tmp_path, "step-00000001") == newest_whole(tmp_path, print) == aside
    again = sealed(tmp_path, "step-00000001", 2)
    assert locate_checkpoint(tmp_path, "step-00000001") == newest_whole(tmp_path, print) == again
    assert locate_checkpoint(tmp_path, "") is locate_checkpoint(tmp_path, "step-00000002") is None


def test_a_changed_byte_is_found_when_it_is_read_and_a_lost_one_at_once(tmp_path: Path) -> None:
    folder = sealed(tmp_path, "step-00000001", 1)
    [one] = list_checkpoints(tmp_path)
    (folder / "a").write_bytes(b"Content")
    assert looks_whole(one)
    with pytest.raises(DataError, match=r"step-00000001: a does not match its checksum; none is whole: name other"):
        newest_whole(tmp_path, print)
    (folder / "a").write_bytes(b"")
    assert not looks_whole(one)
    shutil.rmtree(folder)
    assert not looks_whole(one)
