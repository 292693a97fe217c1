"""Side files that hold something else than packers write are told with file and caption, before a record is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.errors import DataError
from data.stores.text_files import is_id, listed_images, read_side_files
from data.words.wordpiece import Special

GOOD: dict[str, Any] = {
    "meta.json": {"CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 50], "more": [1]},
    "id2len.json": {"7": 3, "3": 1},
    "txt2img.json": {"3": "a.npz", "7": "b.npz"},
    "img2txts.json": {"b.npz": ["7"], "a.npz": ["3"], "c.npz": []},
}


def written(folder: Path, name: str = "", content: Any = None) -> Path:
    """A store's side files, one of them with other content."""
    for file, good in GOOD.items():
        (folder / file).write_text(json.dumps(content if file == name else good))
    return folder


def test_what_packers_write_is_read(tmp_path: Path) -> None:
    found = read_side_files(written(tmp_path))
    assert found.meta == GOOD["meta.json"]
    assert found.special == Special(2, 3, 4, (5, 50))
    assert list(found.lengths.items()) == [("7", 3), ("3", 1)]
    assert found.images == ["b.npz", "a.npz"]
    assert found.image_order == ["b.npz", "a.npz", "c.npz"]
    assert listed_images(tmp_path) == {"7": {"b.npz"}, "3": {"a.npz"}}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(("content", "shown"), [([], r"\[\]"), (3, "3"), (None, "null"), ("x", "'x'"), (True, "true")])
def test_what_is_no_object_is_refused(name: str, content: Any, shown: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name} holds no JSON object, but {shown}; pack the store again"):
        read_side_files(written(tmp_path, name, content))


@pytest.mark.parametrize(("change", "told"), [
    ({"CLS": "x"}, "meta.json: CLS is 'x', not the id of a word; pack"),
    ({"CLS": None, "SEP": -1}, "CLS is null, not the id of a word; SEP is -1, not the id of a word; pack"),
    ({"MASK": True}, "MASK is true, not"),
    ({"v_range": "ab"}, "v_range is 'ab', not the first id of words and the one behind the last"),
    ({"v_range": [50, 5]}, r"v_range is \[50, 5\], not"),
    ({"v_range": [5]}, r"v_range is \[5\], not"),
])  # fmt: skip
def test_special_ids_that_are_none_are_told_at_once(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read_side_files(written(tmp_path, "meta.json", {**GOOD["meta.json"], **change}))


@pytest.mark.parametrize("length", ["3", None, 2.5, True, 1 << 40, -1, [3]])
def test_lengths_that_are_no_numbers_are_refused(length: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"id2len\.json has lengths that are no whole numbers: 1 of 2, such as .* of 3"):
        read_side_files(written(tmp_path, "id2len.json", {"7": 3, "3": length}))


@pytest.mark.parametrize("image", [3, None, "", ["a.npz"], {}])
def test_images_that_are_no_names_are_refused(image: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"txt2img\.json has images that are no names: 1 of 2, such as .* of 7; pack"):
        read_side_files(written(tmp_path, "txt2img.json", {"3": "a.npz", "7": image}))


@pytest.mark.parametrize("captions", ["7", 7, None, [None], [["7"]], [1.5]])
def test_lists_of_captions_that_are_none_are_refused(captions: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"img2txts\.json has captions that are no lists of ids: 1 of 1, such as"):
        listed_images(written(tmp_path, "img2txts.json", {"b.npz": captions}))


def test_a_caption_of_two_images_has_two(tmp_path: Path) -> None:
    written(tmp_path, "img2txts.json", {"a.npz": ["3", 7], "b.npz": ["7"]})
    assert listed_images(tmp_path)["7"] == {"a.npz", "b.npz"}


def test_long_values_are_shown_in_part(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read_side_files(written(tmp_path, "id2len.json", ["x" * 1000]))
    assert len(str(refused.value)) < 200 + len(str(tmp_path))


def test_ids_are_whole_numbers_that_an_array_can_hold() -> None:
    assert all(map(is_id, (0, 1, (1 << 31) - 1)))
    assert not any(map(is_id, (-1, 1 << 31, True, 1.0, "1", None)))
