"""Every published form of captions gives the same entries; errors name file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError, DataError
from data.source.captions import Entry, read_caption_files, read_captions, read_image_ids, select

CAPTIONS = Path(__file__).parents[4] / "shared/data/captions"


def sentence(number: int, raw: str) -> dict[str, Any]:
    return {"tokens": raw.lower().split(), "raw": raw, "imgid": 0, "sentid": number}


KARPATHY = [
    {
        "filename": "COCO_val2014_000000000042.jpg",
        "split": "val",
        "sentences": [sentence(3, "A dog ."), sentence(1, "Two")],
    },
    {"filename": "1000.jpg", "split": "train", "cocoid": 7, "sentences": []},
]


@pytest.mark.parametrize("content", [KARPATHY, {"images": KARPATHY, "dataset": "coco"}])
@pytest.mark.parametrize("packed", [False, True])
def test_karpathy_with_and_without_its_frame(tmp_path: Path, content: Any, packed: bool) -> None:
    data = json.dumps(content).encode()
    path = tmp_path / ("dataset.json.gz" if packed else "dataset.json")
    path.write_bytes(gzip.compress(data) if packed else data)
    first, second = read_captions(path)
    assert (first.image, first.number, first.split) == ("COCO_val2014_000000000042", 42, "val")
    assert [(caption.id, caption.text) for caption in first.captions] == [("3", "A dog ."), ("1", "Two")]
    assert first.captions[0].fields == sentence(3, "A dog .")
    assert (second.number, second.captions) == (1000, ())


def test_json_lines_number_the_captions_of_the_whole_file(tmp_path: Path) -> None:
    lines = [
        {"image_id": "abc_17", "split": "train", "captions": ["one", "two"], "phrases": [[{"start": 0}], []]},
        {"image_id": 5, "captions": ["three"]},
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    first, second = read_captions(path)
    assert [caption.id for entry in (first, second) for caption in entry.captions] == ["0", "1", "2"]
    assert first.captions[0].fields["phrases"] == [{"start": 0}]
    assert first.captions[1].fields == {"raw": "two", "imgid": 0, "sentid": 1, "phrases": []}
    assert (first.image, first.number, second.image, second.split) == ("abc_17", 17, "5", "")


def test_phrases_come_with_the_size_of_their_picture(tmp_path: Path) -> None:
    size = {"width": 200, "height": 100}
    lines = [
        {"image_id": "a", **size, "captions": ["one", "two"], "phrases": [[{"start": 0}], []]},
        {"image_id": "b", **size, "captions": ["three"]},
        {"image_id": "c", "width": 3, "captions": ["four"], "phrases": [[]]},
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    fields = [caption.fields for entry in read_captions(path) for caption in entry.captions]
    assert [of_caption.get("image_size") for of_caption in fields] == [[200, 100], [200, 100], None, None]
    assert ["phrases" in of_caption for of_caption in fields] == [True, True, False, True]


def write_lines(path: Path, lines: list[str]) -> Path:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_as_many_ids_as_captions_belong_line_by_line(tmp_path: Path) -> None:
    ids = write_lines(tmp_path / "ids.txt.gz", ["4", "4", "9", "4"])
    captions = write_lines(tmp_path / "caps.txt", ["a", "b\u2028still b", "c", "d"])
    entries = read_caption_files(ids, captions)
    assert [(entry.image, [caption.text for caption in entry.captions]) for entry in entries] == [
        ("4", ["a", "b\u2028still b", "d"]),
        ("9", ["c"]),
    ]
    assert [caption.id for caption in entries[0].captions] == ["0", "1", "3"]


def test_fewer_ids_have_five_captions_each(tmp_path: Path) -> None:
    ids = write_lines(tmp_path / "ids.txt", ["4", "9"])
    captions = write_lines(tmp_path / "caps.txt.gz", [f"caption {number}" for number in range(10)])
    names = tmp_path / "names.json"
    names.write_text('{"4": "1007129816.jpg", "9": "folder/1009434119.jpg"}')
    entries = read_caption_files(ids, captions, names)
    assert [(entry.image, len(entry.captions)) for entry in entries] == [("1007129816", 5), ("1009434119", 5)]
    assert entries[1].captions[0].text == "caption 5"


@pytest.mark.parametrize("each", [1, 3])
def test_ids_may_have_any_number_of_captions_if_it_is_the_same(tmp_path: Path, each: int) -> None:
    ids = write_lines(tmp_path / "ids.txt", ["4", "9", "5"])
    captions = write_lines(tmp_path / "caps.txt", [f"caption {number}" for number in range(3 * each)])
    entries = read_caption_files(ids, captions)
    assert [(entry.image, len(entry.captions)) for entry in entries] == [("4", each), ("9", each), ("5", each)]
    assert entries[2].captions[-1].text == f"caption {3 * each - 1}"


@pytest.mark.parametrize(("ids", "captions"), [(3, 10), (10, 3), (0, 5), (3, 0)])
def test_ids_and_captions_that_do_not_fit_are_told_with_both_numbers(tmp_path: Path, ids: int, captions: int) -> None:
    paths = write_lines(tmp_path / "ids.txt", ["4"] * ids), write_lines(tmp_path / "caps.txt", ["a"] * captions)
    with pytest.raises(DataError, match=rf"has {captions} lines, .*ids.txt {ids}: give as many captions for each id"):
        read_caption_files(*paths)


def test_ids_without_captions_are_images_once_each(tmp_path: Path) -> None:
    ids = write_lines(tmp_path / "ids.txt.gz", ["9", "9 ", "4", "9"])
    (tmp_path / "names.json").write_text('{"4": "1007129816.jpg", "9": "folder/1009434119.jpg"}')
    assert read_image_ids(ids) == [Entry("9", "", ()), Entry("4", "", ())]
    assert [entry.image for entry in read_image_ids(ids, tmp_path / "names.json")] == ["1009434119", "1007129816"]
    (tmp_path / "names.json").write_text('{"9": "1.jpg"}')
    with pytest.raises(DataError, match=r"names\.json names no picture for id 4"):
        read_image_ids(ids, tmp_path / "names.json")


def test_numbers_of_lines_that_do_not_fit_are_named(tmp_path: Path) -> None:
    ids, captions = write_lines(tmp_path / "ids.txt", ["4", "9"]), write_lines(tmp_path / "caps.txt", ["a", "b", "c"])
    with pytest.raises(DataError, match=r"caps\.txt has 3 lines, .*ids\.txt 2"):
        read_caption_files(ids, captions)


def test_ids_without_a_name_are_named(tmp_path: Path) -> None:
    ids, captions = write_lines(tmp_path / "ids.txt", ["4"]), write_lines(tmp_path / "caps.txt", ["a"])
    (tmp_path / "names.json").write_text("{}")
    with pytest.raises(DataError, match=r"names\.json names no picture for id 4"):
        read_caption_files(ids, captions, tmp_path / "names.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[", r"a\.json is not JSON"),
        ("a.json", "3", "neither a list of images"),
        ("a.json", '[{"filename": "x.jpg"}]', r"a\.json, image 0 lacks 'sentences'"),
        ("a.json", '[{"filename": "x.jpg", "sentences": [{"raw": "x"}]}]', "image 0 lacks 'sentid'"),
        ("a.jsonl", '{"image_id": 1, "captions": []}\n{', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", '{"captions": []}', "line 1 lacks 'image_id'"),
        ("a.jsonl", '{"image_id": 1, "captions": ["x"], "phrases": []}', "0 lists of phrases for 1 captions"),
        ("a.jsonl", '{"image_id": 1, "captions": ["x"], "phrases": [null]}', "line 1: 'phrases' is not a list"),
        ("a.jsonl", '{"image_id": 1, "captions": ["x"], "phrases": "a"}', "line 1: 'phrases' is not a list"),
        ("a.csv", "", "ends in neither"),
        ("a.json.gz", "no gzip", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json is missing"):
        read_captions(tmp_path / "none.json")


# ---------------------------------------------------------------- choosing and naming


def test_image_names_from_templates() -> None:
    assert Entry("1000092795", "", ()).image_name("flickr30k_{id:012d}.npz") == "flickr30k_001000092795.npz"
    assert Entry("COCO_train2014_000000000009", "", ()).image_name("coco_train2014_{id:012d}.npz").endswith("09.npz")
    assert Entry("abc", "", ()).image_name("{stem}.npz") == "abc.npz"


@pytest.mark.parametrize("naming", ["{id:012d}.npz", "{other}.npz", "{id:z}.npz", "{}.npz", "{"])
def test_templates_that_do_not_fit_are_refused(naming: str) -> None:
    with pytest.raises(ConfigError, match="does not fit image 'abc'"):
        Entry("abc", "", ()).image_name(naming)


def test_splits_are_selected_and_unknown_ones_named() -> None:
    entries = [Entry("a", "train", ()), Entry("b", "restval", ()), Entry("c", "val", ())]
    assert select(entries, None) == entries
    assert [entry.image for entry in select(entries, ["val", "train"])] == ["a", "c"]
    with pytest.raises(ConfigError, match="no split dev, the file has restval, train, val"):
        select(entries, ["val", "dev"])
    with pytest.raises(ConfigError, match="no splits"):
        select([Entry("a", "", ())], ["train"])


# ---------------------------------------------------------------- the real files


@pytest.mark.skipif(not CAPTIONS.is_dir(), reason="the published captions are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "images", "captions"),
    [("f30k/dev", 1014, 5070), ("f30k/test", 1000, 5000), ("coco/dev", 1000, 5000), ("coco/testall", 5000, 25000)],
)
def test_published_caption_files(name: str, images: int, captions: int) -> None:
    entries = read_caption_files(CAPTIONS / f"{name}_ids.txt.gz", CAPTIONS / f"{name}_caps.txt.gz")
    assert len(entries) == images
    assert {len(entry.captions) for entry in entries} == {5}
    assert sum(len(entry.captions) for entry in entries) == captions
    assert all(caption.text.strip() for entry in entries for caption in entry.captions)
