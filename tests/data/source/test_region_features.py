"""Raw region features: what they tell apart, what they ignore, and that boxes are treated alike."""

from __future__ import annotations

import numpy as np
import pytest

from data.source.region_features import COLOURS, PARTS, RAW_DIM, describe

WHOLE = np.array([[0, 0, 64, 64]], np.float32)


def plain(colour: tuple[int, int, int], side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def striped(vertical: bool) -> np.ndarray:
    stripes = np.arange(64) // 4 % 2 * 180 + 30
    grey = np.broadcast_to(stripes if vertical else stripes[:, None], (64, 64))
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def test_shape_type_and_range() -> None:
    boxes = np.array([[0, 0, 50, 40], [3, 5, 20, 9], [0, 0, 1, 1]], np.float32)
    features = describe(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8), boxes)
    assert features.shape == (3, RAW_DIM)
    assert features.dtype == np.float32
    assert features.min() >= 0
    assert features.max() <= 1 + 1e-5


def test_no_boxes_give_no_rows() -> None:
    assert describe(plain((1, 2, 3)), np.zeros((0, 4))).shape == (0, RAW_DIM)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_and_thin_pictures(size: tuple[int, int]) -> None:
    features = describe(np.full((*size, 3), 90, np.uint8), np.array([[0, 0, size[1], size[0]]], np.float32))
    assert np.isfinite(features).all()
    assert (features[:, :COLOURS] ** 2).sum() == pytest.approx(1, abs=1e-4)


def test_a_box_is_described_alike_whichever_boxes_are_beside_it() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes = np.array([[10, 20, 60, 80], [0, 0, 120, 90], [30, 3, 44, 31]], np.float32)
    together = describe(pixels, boxes)
    alone = np.concatenate([describe(pixels, box[None]) for box in boxes])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_colours_inside_the_box_count_and_those_outside_do_not() -> None:
    pixels = plain((200, 30, 30), 96)
    pixels[:48] = (30, 30, 200)
    red = describe(pixels, np.array([[0, 54, 96, 96]]))[0, :COLOURS]
    blue = describe(pixels, np.array([[0, 0, 96, 42]]))[0, :COLOURS]
    only_red = describe(plain((200, 30, 30), 96), np.array([[0, 0, 96, 96]]))[0, :COLOURS]
    assert red @ only_red == pytest.approx(1, abs=1e-3)
    assert red @ blue == pytest.approx(0, abs=1e-3)


def test_direction_of_stripes_shows() -> None:
    upright, level = (describe(striped(vertical), WHOLE)[0] for vertical in (True, False))
    block = slice(2 * COLOURS, 2 * COLOURS + 72)
    assert upright[block] @ level[block] < 0.2
    assert upright[block] @ upright[block] == pytest.approx(1, abs=1e-3)


def test_outline_is_the_same_in_other_colours() -> None:
    outlines = []
    for ground, thing in (((220, 220, 220), (180, 20, 20)), ((20, 60, 140), (240, 230, 60))):
        pixels = plain(ground)
        pixels[16:48, 16:48] = thing
        outlines.append(describe(pixels, WHOLE)[0, -(PARTS**2) :].reshape(PARTS, PARTS))
    np.testing.assert_allclose(outlines[0], outlines[1], atol=0.05)
    assert outlines[0][2:4, 2:4].min() > 0.9 / PARTS
    assert outlines[0][0].max() < 0.2 / PARTS


def test_large_pictures_are_reduced_with_their_boxes() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    small, large = pixels.repeat(20, 0).repeat(20, 1), pixels.repeat(80, 0).repeat(80, 1)
    box = np.array([[20, 40, 120, 140]], np.float32)
    same = describe(small, box)[0] @ describe(large, box * 4)[0]
    assert same / np.linalg.norm(describe(small, box)) ** 2 == pytest.approx(1, abs=0.02)


def test_same_bytes_every_time() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (70, 70, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 70, 70], [5, 5, 30, 60]], np.float32)
    assert describe(pixels, boxes).tobytes() == describe(pixels, boxes).tobytes()
