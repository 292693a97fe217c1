"""Boxes of detectors, under any name and in any measure: shares in the end, or one line that says what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from config.errors import DataError
from data.source.butd_npz import PLAIN
from data.source.detector_output import BoxRule, regions_of, size_of

FEATURES = np.ones((2, 8), np.float32)
PIXELS = np.array([[0, 0, 320, 240], [64, 48, 640, 480]], np.float32)
SHARES = np.array([[0, 0, 0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 1, 1, 0.9, 0.9]], np.float32)


def boxes(given: Any, rule: BoxRule = PLAIN, **others: Any) -> Any:
    arrays = {"features": FEATURES, "boxes": np.asarray(given), **{k: np.asarray(v) for k, v in others.items()}}
    return regions_of(arrays, rule)["norm_bb"]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int32, np.uint16])
def test_pixels_of_any_type_become_shares(kind: Any) -> None:
    got = boxes(PIXELS.astype(kind), image_w=640, image_h=480)
    np.testing.assert_allclose(got, SHARES, atol=1e-6)


def test_shares_in_six_numbers_are_untouched() -> None:
    assert boxes(SHARES, image_w=640, image_h=480) is not None
    assert np.array_equal(boxes(SHARES, image_w=640, image_h=480), SHARES)


def test_a_size_that_is_given_counts_more_than_that_of_the_file() -> None:
    np.testing.assert_allclose(boxes(PIXELS, BoxRule(size=(640, 480)), image_w=1, image_h=1), SHARES, atol=1e-6)


@pytest.mark.parametrize(("size", "told"), [
    ((480, 640), "boxes that go to 640 x 480 in a picture of 480 x 640; if width .* swapped .* --image_sizes"),
    ((0, 480), "is of a picture of 0 x 480; mend its width and height"),
    ((np.nan, 480), "is of a picture of nan x 480; mend"),
    ((np.inf, 480), "is of a picture of inf x 480; mend"),
    (("wide", 480), r"boxes in pixels \(from 0 to 640\), and nothing says how large its picture is; give"),
    (([640, 640], 480), "nothing says how large its picture is"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(size: tuple[Any, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        boxes(PIXELS, image_w=size[0], image_h=size[1])


def test_widths_in_place_of_corners_are_refused() -> None:
    with pytest.raises(DataError, match="end before they begin; give corners x1, y1, x2, y2, not widths and heights"):
        boxes([[400, 300, 50, 60], [0, 0, 9, 9]], image_w=640, image_h=480)
    with pytest.raises(DataError, match="end before they begin"):
        boxes([[0.5, 0.5, 0.2, 0.3], [0, 0, 1, 1]])


def test_what_is_in_objects_alone_is_said() -> None:
    with pytest.raises(DataError, match=r"^holds features and Python objects \(info\), which are not read; save"):
        regions_of({"features": FEATURES}, BoxRule(), ("info",))


def test_boxes_that_are_no_numbers_are_left_to_the_packer() -> None:
    odd = PIXELS.copy()
    odd[0, 0] = np.nan
    assert np.array_equal(boxes(odd), odd, equal_nan=True)
    assert boxes([["a"] * 4] * 2).dtype.kind == "U"


def test_sizes_are_known_under_either_name() -> None:
    sizes = {"a": (1.0, 2.0), "b.npz": (3.0, 4.0)}
    assert [size_of(image, sizes) for image in ("a.npz", "b.npz", "c.npz")] == [(1.0, 2.0), (3.0, 4.0), None]
