"""sources.py: captions and pictures are found where they fit, and missed in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.errors import ConfigError, DataError
from data.stores.text_store import TextWriter
from scripts.page.outcome import open_outcome
from scripts.page.sources import Captions, Pictures, files_for


def test_captions_come_from_the_text_store_of_the_config(make_run, tmp_path, change):
    folder = make_run(images=4, each=1)
    meta = {"CLS": 1, "SEP": 2, "MASK": 3, "v_range": [5, 50]}
    with TextWriter(tmp_path / "words.db", meta) as writer:
        for text in range(4):
            name = f"scene_test_{text:06d}.npz"
            writer.add(str(text), {"input_ids": [7, 8], "img_fname": name, "raw": f"words of {text}"})
    change(folder / "config.json", lambda content: content["data"].update(test_txt_db=str(tmp_path / "words.db")))
    outcome = open_outcome(folder)
    captions = Captions.find(outcome, "test", outcome.scores("test"), None)
    assert captions["2"] == "words of 2"
    assert "words.db" in captions.source


def test_captions_that_do_not_fit_are_not_shown(make_run, tmp_path):
    folder = make_run(images=4, each=2)
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    (tmp_path / "captions.jsonl").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    outcome = open_outcome(folder)
    captions = Captions.from_file(tmp_path / "captions.jsonl", outcome.scores("test"))
    assert captions["0"] == "text 0"
    assert captions["4"] == json.loads(lines[2])["captions"][0]
    assert "4 texts, which do not fit the file" in captions.source


def test_pictures_are_found_by_name_or_number(make_run, tmp_path):
    make_run(images=2)
    place = tmp_path / "pictures" / "test"
    (place / "scene_test_000000.png").rename(place / "12345.png")
    pictures = Pictures(tmp_path / "pictures")
    assert pictures.thumbnail("flickr30k_000000012345.npz") is not None
    assert pictures.thumbnail("Scene_test_000001.npz") is not None
    assert pictures.thumbnail("scene_test_000000.npz") is None
    assert pictures.failed == {"scene_test_000000": "is not there"}
    (place / "deeper").mkdir()
    (place / "deeper" / "scene_test_000001.png").write_bytes((place / "scene_test_000001.png").read_bytes())
    assert Pictures(tmp_path / "pictures").thumbnail("scene_test_000001.npz") is None, "which of the two?"
    with pytest.raises(DataError, match="neither a folder nor a tar"):
        Pictures(tmp_path / "absent")


@pytest.mark.parametrize(("kind", "mode"), [
    ("GIF", "P"), ("WEBP", "RGBA"), ("TIFF", "CMYK"), ("TIFF", "I;16"), ("PNG", "LA"), ("BMP", "1"),
])  # fmt: skip
def test_whatever_training_takes_is_drawn(kind: str, mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    made = Image.fromarray(np.full((20, 40), 40_000, np.uint16)) if mode == "I;16" else picture.convert(mode)
    made.save(tmp_path / f"a.{kind.lower()}", kind)
    assert str(Pictures(tmp_path).thumbnail("a.npz")).startswith("data:image/jpeg;base64,")


def test_files_name_pictures_where_ids_do_not(tmp_path: Path) -> None:
    for name, colour in (("1.png", "red"), ("2.png", "blue"), ("cats/7.png", "green"), ("dogs/7.png", "white")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    files = {"1.npz": "2.png", "2.npz": "1.png", "c.npz": "cats/7.png"}
    named, plain = Pictures(tmp_path, files=files), Pictures(tmp_path)
    assert named.thumbnail("1.npz") == plain.thumbnail("2.npz") != plain.thumbnail("1.npz")
    assert named.thumbnail("c.npz") is not None
    assert plain.thumbnail("7.npz") is None
    assert "; 1 are not shown: 7 is the name of several (cats/7.png, dogs/7.png)." in plain.source


def test_the_very_file_is_drawn_where_there_are_others_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "thumbs").mkdir()
    for name, colour in (("2.png", "red"), ("2.bmp", "blue"), ("thumbs/2.png", "green"), ("only.png", "red")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    pictures = Pictures(tmp_path, files={"1.npz": "2.png"})
    assert pictures.thumbnail("1.npz") == pictures.thumbnail("only.npz") is not None


def test_pictures_that_are_not_shown_are_told_with_the_reason(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "f.tif")
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes(b"no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "a_folder.jpg").mkdir()
    pictures = Pictures(tmp_path, files={"odd.npz": "x/y.png"})
    for name in ("f", "good", "cut", "empty", "a_folder", "odd"):
        assert (pictures.thumbnail(f"{name}.npz") is None) == (name != "good")
    assert pictures.failed["f"] == "holds floating numbers from 0 to 1, not shades from 0 to 255 or 65535"
    assert pictures.failed["cut"].startswith("cannot be read as a picture (")
    assert pictures.failed["a_folder"] == "Is a directory"
    assert pictures.failed["odd"] == "is not there (x/y.png)"
    assert "; 5 are not shown: f holds floating" in pictures.source
    assert pictures.source.endswith("; and 2 more.")


def test_a_file_that_is_no_archive_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("nothing of the kind")
    with pytest.raises(DataError, match=r"x\.tar: neither a folder nor a tar of pictures \(file could") as told:
        Pictures(tmp_path / "x.tar")
    assert "\n" not in str(told.value)


def test_the_files_of_a_captions_file_must_be_those_of_the_store(tmp_path: Path) -> None:
    texts = tmp_path / "texts.db"
    special = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 9], "files": {"1.npz": "2.png"}}
    with TextWriter(texts, special) as writer:
        writer.add("0", {"input_ids": [5], "img_fname": "1.npz", "raw": "x"})
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": 1, "file": "2.png", "captions": ["x"]}\n')
    assert files_for(texts, captions, ["1.npz"]) == files_for(texts, None, ["1.npz"]) == {"1.npz": "2.png"}
    captions.write_text('{"image_id": 1, "file": "3.png", "captions": ["x"]}\n')
    with pytest.raises(DataError, match=r"is of other pictures than .*: 1\.npz is 3\.png for the captions, 2\.png in"):
        files_for(texts, captions, ["1.npz"])


@pytest.mark.parametrize("split", ["../test", "a/b", "..", ""])
def test_a_split_is_no_path(split: str, make_run) -> None:
    with pytest.raises(ConfigError, match="is no name of a split"):
        open_outcome(make_run(images=2)).scores(split)
