"""Which pictures are packed, under which names, and with which boxes."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

import pytest

from config.errors import ConfigError, DataError
from data.source.entries import Caption, Entry
from data.source.picture_selection import (
    Picture,
    PictureSelection,
    choose,
    every_picture,
    files_of,
    locate,
    read_wanted,
)


def entry(name: str, *boxes: list[float]) -> Entry:
    phrase = {"start": 0, "end": 1, "boxes": list(boxes)}
    return Entry(name, "", (Caption("0", "x", {"phrases": [phrase], "image_size": [10, 10]}),))


ENTRIES = [entry("p_1", [0, 0, 5, 10]), entry("p_2")]


def test_without_annotation_every_entry_is_wanted() -> None:
    wanted, boxless = choose(ENTRIES, "{id:03d}.npz", annotated=False)
    assert wanted == [
        PictureSelection("001.npz", PurePosixPath("p_1")),
        PictureSelection("002.npz", PurePosixPath("p_2")),
    ]
    assert boxless == []


def test_with_annotation_those_without_a_box_are_named() -> None:
    wanted, boxless = choose(ENTRIES, "{stem}.npz", annotated=True)
    assert boxless == ["p_2.npz"]
    (one,) = wanted
    assert one.annotated is not None
    assert one.annotated.shares.tolist() == [[0, 0, 0.5, 1]]


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
        wanted = [PictureSelection("B", PurePosixPath("b")), PictureSelection("C", PurePosixPath("c"))]
        assert list(read_wanted(source, locate(source, wanted))) == [Picture("B", b"b")]


def test_two_pictures_of_one_name_are_refused(folder: Path) -> None:
    (folder / "deeper" / "a.png").write_bytes(b"other")
    with pytest.raises(DataError, match=r"a\.jpg and deeper/a\.png would both be A; rename one"):
        locate(folder, [PictureSelection("A", PurePosixPath("a"))])


def test_pictures_may_be_wanted_by_number(tmp_path: Path) -> None:
    for name in ("COCO_val2014_000000000042.jpg", "7.jpg", "0007b.jpg", "x_000.jpg", "p8", "000000000139.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    wanted = [PictureSelection(f"{number}.npz", PurePosixPath(number)) for number in ("42", "7", "0", "8", "139", "9")]
    located = locate(tmp_path, wanted, by_number=True)
    found = {picture.name: picture.data.decode() for picture in read_wanted(tmp_path, located)}
    assert found == {"42.npz": "COCO_val2014_000000000042.jpg", "7.npz": "7.jpg", "0.npz": "x_000.jpg",
                     "139.npz": "000000000139.jpg"}
    assert [picture.name for picture in read_wanted(tmp_path, locate(tmp_path, wanted))] == ["7.npz"]
    (tmp_path / "COCO_train2014_000000000042.jpg").touch()
    with pytest.raises(DataError, match=r"COCO_train2014_0+42\.jpg and COCO_val2014_0+42\.jpg would both be 42\.npz"):
        locate(tmp_path, wanted, by_number=True)


def test_a_number_may_be_written_in_one_way_only(tmp_path: Path) -> None:
    for name in ("00.jpg", "000.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"000?\.jpg and 000?\.jpg would both be 0\.npz; rename one"):
        locate(tmp_path, [PictureSelection("0.npz", PurePosixPath("0"))], by_number=True)


def jsonl(*lines: tuple[object, str]) -> list[Entry]:
    return [Entry(str(id), "", (), file) for id, file in lines]


@pytest.mark.parametrize(("entries", "files", "expected"), [
    (jsonl((1, "2.png"), (2, "1.png")), ("1.png", "2.png"), {"1.npz": "2.png", "2.npz": "1.png"}),
    (jsonl((42, "COCO_val2014_000000000042.jpg")), ("COCO_val2014_000000000042.jpg", "42.jpg"),
     {"42.npz": "COCO_val2014_000000000042.jpg"}),
    (jsonl((1, "cats/001.jpg"), (2, "dogs/001.jpg")), ("cats/001.jpg", "dogs/001.jpg", "owls/001.jpg"),
     {"1.npz": "cats/001.jpg", "2.npz": "dogs/001.jpg"}),
    (jsonl((1, "val/001.jpg"), (2, "002.jpg")), ("001.png", "deep/er/002.jpg"),
     {"1.npz": "001.png", "2.npz": "deep/er/002.jpg"}),
    (jsonl((1, "1.png"), (2, "d/1.png")), ("1.jpg", "1.png", "c/1.png", "d/1.png"),
     {"1.npz": "1.png", "2.npz": "d/1.png"}),
    (jsonl((1, "x.png"), (2, "x.png")), ("x.png",), {"1.npz": "x.png", "2.npz": "x.png"}),
    (jsonl(("a.b", "")), ("a.b.jpg", "a.jpg"), {"a.b.npz": "a.b.jpg"}),
])  # fmt: skip
def test_a_file_names_the_picture_relative_to_the_folder(
    entries: list[Entry], files: tuple[str, ...], expected: dict[str, str], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    wanted, _ = choose(entries, "{stem}.npz", annotated=False)
    found = {picture.name: picture.data.decode() for picture in read_wanted(tmp_path, locate(tmp_path, wanted))}
    assert found == expected
    odd = {key: entry.file for key, entry in zip(expected, entries, strict=True) if entry.file}
    assert files_of(entries, "{stem}.npz") == odd


def test_a_picture_that_could_be_either_of_two_is_refused(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    both = [(f"{kind}{number}", f"{kind}/{number}.jpg") for kind in ("cats", "dogs") for number in (1, 2, 3, 4)]
    wanted, _ = choose(jsonl(*both), "{stem}.npz", annotated=False)
    with pytest.raises(DataError, match=r"1\.jpg could be cats/1 or dogs/1 of the captions; .*; 2\..* 1 more$"):
        locate(tmp_path, wanted)


def test_a_folder_of_none_of_the_pictures_is_told_with_one_of_either(folder: Path) -> None:
    wanted, _ = choose(jsonl((1, "val/001.jpg"), (2, "002.jpg")), "{stem}.npz", annotated=False)
    with pytest.raises(DataError, match=r"holds none of the 2 pictures wanted, such as val/001\.jpg; it holds a\.jp"):
        locate(folder, wanted)


def test_pictures_that_are_not_wanted_are_not_read(folder: Path) -> None:
    (folder / "deeper" / "b.png").unlink()
    (folder / "deeper" / "b.png").symlink_to("/proc/self/mem")  # a file that nobody can read at its beginning
    assert {found.image for found in every_picture(folder)} == {"a", "b"}
    assert list(read_wanted(folder, locate(folder, [PictureSelection("A", PurePosixPath("a"))]))) == [
        Picture("A", b"a")
    ]


def test_names_that_two_images_would_share_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gives a_1 and b_1 one name, 1\.npz; use \{stem\}"):
        choose([Entry("a_1", "", ()), Entry("b_1", "", ())], "{id}.npz", annotated=False)
