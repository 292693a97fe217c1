"""Which pictures are packed, under which names, and with which boxes."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from config.errors import DataError
from data.source.captions import Caption, Entry
from data.source.wanted import Picture, Wanted, choose, every_picture, read_wanted


def entry(name: str, *boxes: list[float]) -> Entry:
    phrase = {"start": 0, "end": 1, "boxes": list(boxes)}
    return Entry(name, "", (Caption("0", "x", {"phrases": [phrase], "image_size": [10, 10]}),))


ENTRIES = [entry("p_1", [0, 0, 5, 10]), entry("p_2")]


def test_without_annotation_every_entry_is_wanted() -> None:
    wanted, boxless = choose(ENTRIES, "{id:03d}.npz", annotated=False)
    assert wanted == {"p_1": Wanted("001.npz"), "p_2": Wanted("002.npz")}
    assert boxless == []


def test_with_annotation_those_without_a_box_are_named() -> None:
    wanted, boxless = choose(ENTRIES, "{stem}.npz", annotated=True)
    assert boxless == ["p_2.npz"]
    assert list(wanted) == ["p_1"]
    assert wanted["p_1"].annotated is not None
    assert wanted["p_1"].annotated.shares.tolist() == [[0, 0, 0.5, 1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures" / "deeper").mkdir(parents=True)
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"a")
    (tmp_path / "pictures" / "deeper" / "b.png").write_bytes(b"b")
    return tmp_path / "pictures"


def test_pictures_are_found_by_their_names_in_folders_and_archives(folder: Path) -> None:
    with tarfile.open(folder.parent / "all.tar", "w") as archive:
        archive.add(folder, ".")
    for source in (folder, folder.parent / "all.tar"):
        assert {found.image for found in every_picture(source)} == {"a", "b"}
        wanted = {"b": Wanted("B"), "c": Wanted("C")}
        assert list(read_wanted(source, wanted)) == [Picture("B", b"b")]


def test_two_pictures_of_one_name_are_refused(folder: Path) -> None:
    (folder / "deeper" / "a.png").write_bytes(b"other")
    with pytest.raises(DataError, match=r"a\.jpg and deeper/a\.png would both be A; rename one"):
        list(read_wanted(folder, {"a": Wanted("A")}))


def test_pictures_may_be_wanted_by_number(tmp_path: Path) -> None:
    for name in ("COCO_val2014_000000000042.jpg", "7.jpg", "0007b.jpg", "x_000.jpg", "p8", "000000000139.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    wanted = {number: Wanted(f"{number}.npz") for number in ("42", "7", "0", "8", "139", "9")}
    found = {picture.name: picture.data.decode() for picture in read_wanted(tmp_path, wanted, by_number=True)}
    assert found == {"42.npz": "COCO_val2014_000000000042.jpg", "7.npz": "7.jpg", "0.npz": "x_000.jpg",
                     "139.npz": "000000000139.jpg"}
    assert [picture.name for picture in read_wanted(tmp_path, wanted)] == ["7.npz"]
    (tmp_path / "COCO_train2014_000000000042.jpg").touch()
    with pytest.raises(DataError, match=r"COCO_train2014_0+42\.jpg and COCO_val2014_0+42\.jpg would both be 42\.npz"):
        list(read_wanted(tmp_path, wanted, by_number=True))


def test_a_number_may_be_written_in_one_way_only(tmp_path: Path) -> None:
    for name in ("00.jpg", "000.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"000?\.jpg and 000?\.jpg would both be 0\.npz; rename one"):
        list(read_wanted(tmp_path, {"0": Wanted("0.npz")}, by_number=True))
