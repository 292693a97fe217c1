"""Annotated boxes of an image's captions: each once, in shares of the picture that was annotated."""

from __future__ import annotations

import numpy as np
import pytest

from config.errors import DataError
from data.source.annotated_boxes import AnnotatedBoxes, annotated_boxes
from data.source.entries import Caption, Entry

SIZE = [400, 100]
A, B, C = [0, 0, 100, 50], [200, 50, 400, 100], [0, 0, 400, 100]


def entry(*phrases: list[list[list[float]]]) -> Entry:
    """One caption each, with the boxes of its phrases."""
    captions = [
        Caption(str(at), "x", {"phrases": [{"boxes": boxes} for boxes in of_caption], "image_size": SIZE})
        for at, of_caption in enumerate(phrases)
    ]
    return Entry("a", "", tuple(captions))


def test_boxes_come_once_in_order_of_appearance() -> None:
    found = annotated_boxes(entry([[B], []], [], [[A, B], [C, A]]))
    assert found is not None
    assert (found.width, found.height) == (400, 100)
    assert found.shares.tolist() == [[0.5, 0.5, 1, 1], [0, 0, 0.25, 0.5], [0, 0, 1, 1]]
    assert found.norm_bb.tolist() == [[0.5, 0.5, 1, 1, 0.5, 0.5], [0, 0, 0.25, 0.5, 0.25, 0.5], [0, 0, 1, 1, 1, 1]]
    assert found.shares.dtype == found.norm_bb.dtype == np.float32


def test_images_without_a_box_have_none() -> None:
    assert annotated_boxes(entry([[], []], [])) is None
    assert annotated_boxes(Entry("a", "", (Caption("1", "x", {}),))) is None


def test_what_does_not_fit_names_the_caption() -> None:
    with pytest.raises(DataError, match="caption 1 of a, phrase 0: box"):
        annotated_boxes(entry([[A]], [[[0, 0, 500, 5]]]))


@pytest.mark.parametrize(("width", "height"), [(400, 100), (200, 50), (51, 13), (50, 13), (4000, 1000)])
def test_boxes_follow_the_picture_as_it_was_decoded(width: int, height: int) -> None:
    found = AnnotatedBoxes(400, 100, np.array([[0, 0.5, 0.25, 1]], np.float32))
    assert found.pixels(width, height, "x").tolist() == [[0, 0.5 * height, 0.25 * width, height]]


@pytest.mark.parametrize(("width", "height"), [(100, 400), (400, 102), (396, 100 - 5), (200, 100)])
def test_pictures_of_other_proportions_are_refused(width: int, height: int) -> None:
    found = AnnotatedBoxes(400, 100, np.zeros((1, 4), np.float32))
    with pytest.raises(DataError, match=f"a.npz is {width} x {height} here and 400 x 100 in its annotation; give the"):
        found.pixels(width, height, "a.npz")
