"""sources.py: captions and pictures are found where they fit, and missed in words."""

from __future__ import annotations

import json

import pytest

from config.errors import DataError
from data.texts import TextWriter
from scripts.page.outcome import open_outcome
from scripts.page.sources import Captions, Pictures


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
    assert pictures.failed == ["scene_test_000000"]
    with pytest.raises(DataError, match="neither a folder nor a tar"):
        Pictures(tmp_path / "absent")
