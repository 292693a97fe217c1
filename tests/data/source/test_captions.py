"""Every published form of captions gives the same entries; errors name file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError, DataError
from data.source.captions import read_caption_files, read_captions, read_image_ids
from data.source.entries import Entry, select

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


@pytest.mark.parametrize(("captions", "texts"), [
    ("a\nb\n", [["a"], ["b"]]), ("a\nb\n\n", [["a"], ["b"]]), ("a\nb\r\n\r\n \n", [["a"], ["b"]]),
    ("a\nb\nc\nd\n\n", [["a", "b"], ["c", "d"]]), ("a\nb\nc\n\n", [["a", "b"], ["c", ""]]), ("a\n\n", [["a"], [""]]),
])  # fmt: skip
def test_blank_lines_at_the_end_are_no_captions(captions: str, texts: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("4\n9\n\n")
    (tmp_path / "caps.txt").write_bytes(captions.encode())
    entries = read_caption_files(tmp_path / "ids.txt", tmp_path / "caps.txt")
    assert [[caption.text for caption in entry.captions] for entry in entries] == texts


def test_blank_lines_that_leave_open_whose_captions_are_whose_are_refused(tmp_path: Path) -> None:
    ids = write_lines(tmp_path / "ids.txt", ["4", "9"])
    captions = write_lines(tmp_path / "caps.txt", ["a", "b", "c", "d", "", ""])
    with pytest.raises(DataError, match=r"caps\.txt ends in 2 blank lines and fits the 2 ids of .* with and without"):
        read_caption_files(ids, captions)
    with pytest.raises(DataError, match=r"ids\.txt, line 1 is blank; give an id; line 3 is blank"):
        read_image_ids(write_lines(tmp_path / "ids.txt", ["", "4", " ", "9"]))


@pytest.mark.parametrize(("ids", "captions"), [(3, 10), (10, 3), (3, 0)])
def test_ids_and_captions_that_do_not_fit_are_told_with_both_numbers(tmp_path: Path, ids: int, captions: int) -> None:
    paths = write_lines(tmp_path / "ids.txt", ["4"] * ids), write_lines(tmp_path / "caps.txt", ["a"] * captions)
    with pytest.raises(DataError, match=rf"has {captions} lines, .*ids.txt {ids}: give as many captions for each id"):
        read_caption_files(*paths)


def test_a_file_without_ids_is_told(tmp_path: Path) -> None:
    captions = write_lines(tmp_path / "caps.txt", ["a"])
    with pytest.raises(DataError, match=r"ids\.txt holds no id; check whether"):
        read_caption_files(write_lines(tmp_path / "ids.txt", []), captions)


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
        ("a.json", '[{"filename": "x.jpg", "sentences": [{"raw": "x"}]}]', "image 0, sentence 0 lacks 'sentid'"),
        ("a.jsonl", '{"image_id": 1, "captions": []}\n{', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", '{"captions": []}', "line 1 lacks 'image_id'"),
        ("a.jsonl", '{"image_id": 1, "captions": ["x"], "phrases": []}', "0 lists of phrases for 1 captions"),
        ("a.jsonl", '{"image_id": 1, "captions": ["x"], "phrases": [null]}', "line 1 has 'phrases' that are not a"),
        ("a.jsonl", '{"image_id": 1, "captions": ["x"], "phrases": "a"}', "line 1 has 'phrases' that are not a"),
        ("a.jsonl", '{"image_id": 1, "captions": "a black circle"}', "line 1 has a text as 'captions'; give a list"),
        ("a.jsonl", '{"image_id": 1, "captions": {"0": "a circle"}}', "line 1 has an object as 'captions'"),
        ("a.jsonl", '{"image_id": 1, "captions": null}', "line 1 has null as 'captions'"),
        ("a.jsonl", '{"image_id": 1, "captions": [null]}', "line 1 has null as caption 0 of 'captions'; give a text"),
        ("a.jsonl", '{"image_id": 1, "captions": ["a", 3]}', "line 1 has 3 as caption 1 of 'captions'"),
        ("a.jsonl", '{"image_id": null, "captions": []}', "line 1 has null as 'image_id'; give a name or"),
        ("a.jsonl", '{"image_id": true, "captions": []}', "line 1 has true or false as 'image_id'"),
        ("a.jsonl", '{"image_id": 1, "file": 3, "captions": []}', "line 1 has 3 as 'file'; give a text"),
        ("a.jsonl", '{"image_id": 1, "split": null, "captions": []}', "line 1 has null as 'split'"),
        ("a.jsonl", '[1]\n3\n"x"', "line 1 is a list, not an object with fields; line 2 is 3, .*; line 3 is"),
        ("a.jsonl", '{"image_id": 1, "captions": ["a \\ud800 b"]}', r"caption 0 of 'captions' that holds U\+D800"),
        ("a.jsonl", '{"image_id": "a\\u0000", "captions": []}', r"has 'image_id' that holds U\+0000, which is no text"),
        ("a.jsonl", "[" * 9000, "line 1 is not JSON"),
        ("a.jsonl", '{"image_id": 1, "captions": []}\n' + '{"image_id": 1}\n' * 7, "line 6 lacks .*; and 2 more$"),
        ("a.jsonl", "".join(f'{{"image_id": 1, "file": "{n}.png", "captions": []}}\n' for n in (1, 2)),
         r"line 2 says that image 1 is 2\.png, line 1 says 1\.png; give each picture a name of its own"),
        ("a.json", '[{"filename": "x.jpg", "sentences": [{"raw": null, "sentid": 1}]}]', "0 has null as 'raw'"),
        ("a.json", '[{"filename": "x.jpg", "sentences": "ab"}]', "image 0 has a text as 'sentences'; give a list"),
        ("a.json", '[{"filename": "x.jpg", "sentences": [{"raw": "a", "sentid": 1}]}, '
         '{"filename": "y.jpg", "sentences": [{"raw": "b", "sentid": 1}]}]',
         "image 1, sentence 0 has the id 1, as image 0, sentence 0 has; give each caption its own"),
        ("a.json", '[{"filename": "x.jpg", "sentences": [{"raw": "a", "sentid": 1}, {"raw": "b", "sentid": 1}]}]',
         "image 0, sentence 1 has the id 1, as image 0, sentence 0 has"),
        ("a.json", '[{"filename": "1.jpg", "filepath": "cats", "sentences": []}, '
         '{"filename": "1.jpg", "filepath": "dogs", "sentences": []}]',
         r"image 1 says that image 1 is dogs/1\.jpg, image 0 says cats/1\.jpg"),
        ("a.json", '[null, {"filename": "", "sentences": []}]', "image 0 is null, .*; image 1 has an empty 'filename'"),
        ("a.json", '{"images": [{"id": 1}], "annotations": []}', "has 'annotations' beside 'images', as COCO's own"),
        ("a.json", '{"image_id": 1}\n{"image_id": 2}', r"a\.json is not JSON .*name it \.jsonl if it has an object a"),
        ("a.json", '{"images": []}', r"a\.json holds no image; check whether it was written"),
        ("a.jsonl", "\n\n", r"a\.jsonl holds no image"),
        ("a.jsonl", '{"image_id": 1, "image_id": 2, "captions": []}', "is not JSON .an object has 'image_id' twice"),
        ("a.jsonl", f'{{"image_id": {"9" * 5000}, "captions": []}}', "line 1 is not JSON .a number has th"),
        ("a.jsonl", f'{{"image_id": "{"é" * 300}", "captions": []}}', "line 1 has a name of 600 bytes as"),
        ("a.jsonl", '{"image_id": "a\\nb", "captions": []}', r"has U\+000A in its 'image_id'; rem"),
        ("a.json", '[{"filename": "x\\t.jpg", "sentences": []}]', r"has U\+0009 in its 'filename'; rem"),
        ("a.csv", "", "ends in neither"),
        ("a.json.gz", "no gzip", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / name)


ENTRY = '{"image_id": 1, "captions": ["x"]}'


@pytest.mark.parametrize("content", [
    f"{ENTRY}\n\n\n", f"\n{ENTRY}\n  \n", f"{ENTRY}\r\n\r\n", f"\ufeff{ENTRY}",
])  # fmt: skip
def test_blank_lines_marks_and_line_ends_are_none_of_the_captions(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content.encode())
    (entry,) = read_captions(tmp_path / "a.jsonl")
    assert (entry.image, [caption.text for caption in entry.captions]) == ("1", ["x"])


@pytest.mark.parametrize(("content", "message"), [
    (ENTRY.encode("utf-16"), r"a\.jsonl cannot be read as text \(it is UTF-16\); save it as UTF-8"),
    (ENTRY.encode("utf-16-le"), r"\(it is UTF-16\); save it as UTF-8"),
    (ENTRY.encode("utf-16-be"), r"\(it is UTF-16\); save it as UTF-8"),
    (gzip.compress(ENTRY.encode(), mtime=0), r"\(it is gzipped\); give its name the ending \.gz"),
    (b"{}\n\xe9", r"line 2 holds the byte 0xe9, which is not UTF-8\); save it as UTF-8"),
])  # fmt: skip
def test_other_encodings_are_told(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / "a.jsonl")


def test_lines_that_hold_no_text_are_told_of_every_kind_of_file(tmp_path: Path) -> None:
    ids = write_lines(tmp_path / "ids.txt", ["4", "9"])
    captions = write_lines(tmp_path / "caps.txt", ["a", "b\0c"])
    with pytest.raises(DataError, match=r"caps\.txt, line 2 holds U\+0000, which is no text; remove it"):
        read_caption_files(ids, captions)


def test_maps_of_names_are_checked(tmp_path: Path) -> None:
    ids = write_lines(tmp_path / "ids.txt", ["4", "9"])
    for content, message in (("[]", "is no map from ids"),
                             ('{"4": "a", "4": "b"}', "is not JSON .an object has '4' twice"),
                             ('{"4": "a\\u0000", "9": "b"}', r"names\.json, the file of id '4' holds U\+0000"),
                             ('{"4": 3, "9": "x"}', "is no map from ids"),
                             ('{"4": "a/1.jpg", "9": "b/1.jpg"}', r"ids 4 and 9 would both be image 1 \(a/1\.jpg, b")):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(DataError, match=message):
            read_image_ids(ids, tmp_path / "names.json")


def test_the_file_of_a_picture_is_read_from_every_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image_id": 1, "file": "d/2.png", "captions": []}')
    (tmp_path / "a.json").write_text('[{"filename": "x.jpg", "filepath": "val2014", "sentences": []}]')
    ids = write_lines(tmp_path / "ids.txt", ["4"])
    (tmp_path / "names.json").write_text('{"4": "f/7.jpg"}')
    found = [*read_captions(tmp_path / "a.jsonl"), *read_captions(tmp_path / "a.json"),
             *read_image_ids(ids, tmp_path / "names.json")]
    assert [(entry.image, entry.file) for entry in found] == [
        ("1", "d/2.png"),
        ("x", "val2014/x.jpg"),
        ("7", "f/7.jpg"),
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json is missing"):
        read_captions(tmp_path / "none.json")


# ---------------------------------------------------------------- choosing and naming


def test_a_number_that_no_record_can_hold_is_part_of_the_name() -> None:
    assert Entry("a_" + "9" * 18, "", ()).number == 10**18 - 1
    assert Entry("a_" + "9" * 19, "", ()).number is None


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
