"""Phrases become objects, and objects are found again among the regions of a store; errors name caption and phrase."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DataError
from data.records.phrases import overlaps, pack_objects, phrase_boxes, read_objects
from data.records.regions import box_features, normalise_boxes

SIZE = [200, 100]
LEFT, RIGHT, BOTH = [0, 0, 50, 100], [100, 25, 200, 75], [[0, 0, 50, 100], [100, 25, 200, 75]]
LEFT_SHARE, RIGHT_SHARE = [0.0, 0.0, 0.25, 1.0], [0.5, 0.25, 1.0, 0.75]
# Six words of 1, 2, 1, 0, 1 and 3 pieces.
OFFSETS = [0, 1, 3, 4, 4, 5, 8]


def phrase(start: Any, end: Any, *boxes: Any, **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "boxes": list(boxes), **more}


def pack(*phrases: Any, size: Any = SIZE) -> list[dict[str, Any]]:
    return pack_objects(phrases, size, OFFSETS, "caption 7 of a.npz")


# ---------------------------------------------------------------- packing


def test_words_become_pieces_and_boxes_shares() -> None:
    assert pack(phrase(0, 2, LEFT), phrase(4, 6, RIGHT)) == [
        {"words": [0, 1, 2], "boxes": [LEFT_SHARE]},
        {"words": [4, 5, 6, 7], "boxes": [RIGHT_SHARE]},
    ]


def test_phrases_with_the_same_boxes_are_one_object() -> None:
    packed = pack(phrase(4, 5, *BOTH), phrase(0, 1, LEFT), phrase(2, 3, *reversed(BOTH)))
    assert packed == [
        {"words": [3, 4], "boxes": [LEFT_SHARE, RIGHT_SHARE]},
        {"words": [0], "boxes": [LEFT_SHARE]},
    ]


def test_phrases_of_one_entity_are_one_object_with_all_its_boxes() -> None:
    packed = pack(phrase(0, 1, LEFT, entity="4"), phrase(2, 3, RIGHT, entity="4"))
    assert packed == [{"words": [0, 3], "boxes": [LEFT_SHARE, RIGHT_SHARE]}]


def test_entities_with_the_same_boxes_are_one_object() -> None:
    packed = pack(phrase(0, 1, LEFT, entity="4"), phrase(2, 3, LEFT, entity="5"), phrase(4, 5, LEFT))
    assert packed == [{"words": [0, 3, 4], "boxes": [LEFT_SHARE]}]


def test_boxes_given_twice_count_once() -> None:
    assert pack(phrase(0, 1, LEFT, LEFT))[0]["boxes"] == [LEFT_SHARE]


def test_phrases_without_a_box_and_objects_without_a_piece_are_left_out() -> None:
    assert pack(phrase(0, 1), phrase(3, 4, LEFT), phrase(2, 4, RIGHT)) == [{"words": [3], "boxes": [RIGHT_SHARE]}]


def test_the_size_of_the_picture_is_only_needed_for_boxes() -> None:
    assert pack(phrase(0, 1), size=None) == []
    assert pack(size=None) == []


@pytest.mark.parametrize(
    "box", [[-1, 0, 50, 50], [0, 0, 200.5, 50], [0, 0, 50, 101], [50, 0, 10, 50], [0, 50, 10, 40], [0, 0, np.nan, 1]]
)
def test_boxes_that_do_not_fit_the_picture_are_named(box: list[float]) -> None:
    with pytest.raises(DataError, match=r"caption 7 of a\.npz, phrase 2: box .* outside the picture of 200 x 100"):
        pack(phrase(0, 1, LEFT), phrase(1, 2), phrase(2, 3, RIGHT, box), phrase(2, 3, RIGHT))


def test_boxes_may_touch_the_rim_and_have_no_area() -> None:
    packed = pack(phrase(0, 1, [0, 0, 200, 100]), phrase(1, 2, [20, 20, 20, 50]))
    assert [found["boxes"] for found in packed] == [[[0, 0, 1, 1]], [pytest.approx([0.1, 0.2, 0.1, 0.5])]]


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (3, 2), (5, 7), (None, 2), (0, "2"), (0.0, 1)])
def test_phrases_outside_the_caption_are_named(start: Any, end: Any) -> None:
    with pytest.raises(DataError, match=r"caption 7 of a\.npz, phrase 1: words .* of a caption of 6 words; give"):
        pack(phrase(0, 1, LEFT), phrase(start, end))


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ([3], "phrase 0 has no list of boxes"),
        ([{"start": 0, "end": 1}], "phrase 0 has no list of boxes"),
        ([phrase(0, 1, [1, 2, 3])], "phrase 0: boxes .* are not lists of four numbers"),
        ([phrase(0, 1, LEFT, [1, 2])], "phrase 0: boxes .* are not lists of four numbers"),
        ([phrase(0, 1, 1, 2, 3, 4)], "phrase 0: boxes .* are not lists of four numbers"),
        ([phrase(0, 1, ["a", 1, 2, 3])], "phrase 0: boxes .* are not lists of four numbers"),
        ([phrase(0, 1, LEFT, entity=["4"])], "phrase 0: entity .* is neither a name nor a number"),
    ],
)
def test_malformed_phrases_are_named(phrases: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"caption 7 of a\.npz, {message}"):
        pack(*phrases)


@pytest.mark.parametrize("size", [None, [200], [0, 100], ["wide", 3], [200, np.inf], 7])
def test_boxes_without_the_size_of_their_picture_are_refused(size: Any) -> None:
    with pytest.raises(DataError, match=r"caption 7 of a\.npz has boxes, but the size of its picture is .*; give"):
        pack(phrase(0, 1, LEFT), size=size)


def test_boxes_stay_with_their_phrases() -> None:
    found = phrase_boxes([phrase(0, 1, RIGHT), phrase(1, 2), phrase(2, 3, *BOTH)], SIZE, "x")
    assert found == [(tuple(RIGHT_SHARE),), (), (tuple(LEFT_SHARE), tuple(RIGHT_SHARE))]


# ---------------------------------------------------------------- reading


def stored(*boxes: Any, size: Any = SIZE) -> np.ndarray:
    """Boxes [n, 7] as an image store gives them: rounded to half precision."""
    return box_features(normalise_boxes(np.array(boxes), *size).astype(np.float16))


def record(*objects: Any, words: int = 8) -> dict[str, Any]:
    return {"input_ids": [5] * words, "objects": list(objects)}


def test_objects_are_found_among_the_regions() -> None:
    packed = pack(phrase(0, 2, RIGHT), phrase(4, 5, *BOTH))
    found = read_objects(record(*packed), stored([5, 5, 9, 9], RIGHT, LEFT), "caption 7")
    assert found is not None
    assert found.words.tolist() == [[0, 1, 2], [4, -1, -1]]
    assert found.regions.tolist() == [[1, -1], [1, 2]]
    assert found.words.dtype == found.regions.dtype == np.int64


def test_objects_of_the_same_regions_are_one_object() -> None:
    """Two annotators drew one thing a little differently, and the store holds one of their boxes."""
    near = [LEFT[0], LEFT[1], LEFT[2] - 1, LEFT[3]]
    packed = pack(phrase(0, 1, RIGHT), phrase(2, 3, LEFT), phrase(4, 5, near))
    assert len(packed) == 3
    found = read_objects(record(*packed), stored(LEFT, RIGHT), "x")
    assert found is not None
    assert found.regions.tolist() == [[1], [0]]
    assert found.words.tolist() == [packed[0]["words"] + [-1] * (2 - len(packed[0]["words"])),
                                    packed[1]["words"] + packed[2]["words"]]


def test_records_without_objects_and_without_any() -> None:
    assert read_objects({"input_ids": [5]}, stored(LEFT), "x") is None
    found = read_objects(record(), stored(LEFT), "x")
    assert found is not None
    assert found.words.shape == found.regions.shape == (0, 0)


def test_the_best_of_the_regions_that_overlap_is_taken() -> None:
    found = read_objects(record(*pack(phrase(0, 1, LEFT))), stored([0, 0, 49, 99], [0, 0, 50, 99], LEFT), "x")
    assert found is not None
    assert found.regions.tolist() == [[2]]


corner, side = st.integers(0, 499), st.integers(1, 300)
BOXES = st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=6, unique=True)


@given(BOXES)
def test_packed_boxes_are_found_whatever_their_size(boxes: list[tuple[int, int, int, int]]) -> None:
    """Half precision moves the edges of a box of one pixel by a quarter of its width; it is found all the same."""
    corners = [[x, y, min(x + width, 500), min(y + height, 500)] for x, y, width, height in boxes]
    objects = pack_objects([phrase(0, 1, *corners)], [500, 500], [0, 1], "x")
    unique = [list(box) for box in dict.fromkeys(map(tuple, corners))]
    regions = stored(*unique, size=[500, 500])
    found = read_objects(record(*objects), regions, "x")
    assert found is not None
    assert set(found.regions[0].tolist()) == set(range(len(unique)))


def test_a_box_that_is_no_region_is_named_with_the_remedy() -> None:
    packed = pack(phrase(0, 1, LEFT), phrase(1, 2, RIGHT))
    message = (
        r"caption 7: box \[0\.5, 0\.25, 1, 0\.75\] of object 1 is none of the image's 2 regions "
        r"\(best overlap 0\.800\); build the image store .* --annotated_boxes --keep_all"
    )
    with pytest.raises(DataError, match=message):
        read_objects(record(*packed), stored(LEFT, [120, 25, 200, 75]), "caption 7")
    with pytest.raises(DataError, match=r"none of the image's 0 regions"):
        read_objects(record(*packed), stored(LEFT)[:0], "caption 7")


def test_words_that_the_caption_does_not_have_are_named() -> None:
    for words in ([0, 8], [-1], [0.5]):
        with pytest.raises(DataError, match="caption 7: its objects name words that are not among its 8 ids; pack the"):
            read_objects(record({"words": words, "boxes": [LEFT_SHARE]}), stored(LEFT), "caption 7")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([{"boxes": [LEFT_SHARE]}], "the words of its objects cannot be read"),
        ([{"words": [], "boxes": [LEFT_SHARE]}], r"the words of its objects cannot be read \(object 0 has none\)"),
        ([{"words": [1], "boxes": []}], r"the boxes of its objects cannot be read \(object 0 has none\)"),
        ([{"words": [1], "boxes": [[1, 2], [3]]}], "the boxes of its objects cannot be read"),
        ([{"words": [1], "boxes": [[0, 1, 2]]}], "the boxes of its objects are not four numbers each"),
        ([{"words": [1], "boxes": [["a", "b", "c", "d"]]}], "the boxes of its objects are not four numbers each"),
        ([3], "the words of its objects cannot be read"),
    ],
)
def test_objects_that_cannot_be_read_are_named(objects: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"caption 7: {message}.*; pack the captions again"):
        read_objects(record(*objects), stored(LEFT), "caption 7")


def test_a_box_that_is_not_a_number_is_no_region() -> None:
    with pytest.raises(DataError, match="is none of the image's 1 regions"):
        read_objects(record({"words": [1], "boxes": [[0, 0, np.nan, 1]]}), stored(LEFT), "x")


def test_overlaps_agree_with_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    low, size = rng.integers(0, 20, (2, 9, 2)), rng.integers(1, 20, (2, 9, 2))
    boxes = np.concatenate([low, low + size], axis=2)
    place = np.arange(40)
    covers = (place >= boxes[..., None][:, :, :2]) & (place < boxes[..., None][:, :, 2:])
    masks = covers[:, :, 1, :, None] & covers[:, :, 0, None, :]
    first, second = masks[0][:, None], masks[1][None]
    expected = (first & second).sum((2, 3)) / (first | second).sum((2, 3))
    assert np.allclose(overlaps(boxes[0], boxes[1]), expected)


def test_boxes_without_an_area_overlap_only_themselves() -> None:
    assert overlaps([[1, 1, 1, 1]], [[1, 1, 1, 1], [1, 1, 1, 2], [0, 0, 2, 2]]).tolist() == [[1, 0, 0]]
