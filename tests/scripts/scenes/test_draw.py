"""Rendered scenes: boxes fit tightly, colours are those named, and the same draws give the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from data.draws import generator
from data.source.jpeg import read_picture
from scripts.scenes.draw import SIDE, draw
from scripts.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Thing


def alone(colour: str = "red", shape: str = "circle", texture: str = "plain", size: str = "large") -> Scene:
    return Scene((Thing(colour, shape, texture, size),), (), (4,))


def render(scene: Scene, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    picture = draw(scene, generator(0, "test", index))
    return read_picture(picture.jpeg).astype(int), picture.boxes


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_middle_of_an_object_has_the_colour_named(colour: str, texture: str) -> None:
    """The main colour or a tint of it: of all colours' main and tinted lines, its own is the nearest."""
    pixels, boxes = render(alone(colour, "square", texture))
    x1, y1, x2, y2 = boxes[0].astype(int)
    centre = pixels[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8].reshape(-1, 3)
    if texture == "plain":
        distance = {name: np.abs(centre.mean(0) - value).sum() for name, value in COLOURS.items()}
        assert min(distance, key=distance.__getitem__) == colour
    else:
        near = np.abs(centre - np.array(COLOURS[colour])).max(1) < 45
        assert 0.2 < near.mean() < 0.9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_tight(shape: str, size: str) -> None:
    pixels, boxes = render(alone("blue", shape, size=size))
    blue = pixels[..., 2] - pixels[..., 0] > 70
    y, x = np.nonzero(blue)
    found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    np.testing.assert_allclose(found, boxes[0], atol=2.5)


def test_large_objects_are_clearly_larger() -> None:
    sides = {size: [np.sqrt(np.prod(render(alone(shape=shape, size=size), n)[1][0].reshape(2, 2)[1]
                                    - render(alone(shape=shape, size=size), n)[1][0].reshape(2, 2)[0]))
                    for shape in SHAPES for n in range(3)] for size in SIZES}  # fmt: skip
    assert max(sides["small"]) * 1.2 < min(sides["large"])


def test_objects_in_neighbouring_cells_do_not_touch() -> None:
    things = tuple(Thing("red", shape, "plain", "large") for shape in (*SHAPES, "square"))
    for index in range(5):
        boxes = render(Scene(things, (), tuple(range(9))), index)[1]
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        overlap = (high - low).clip(0).prod(-1)
        assert overlap[~np.eye(9, dtype=bool)].max() <= 4
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE


def test_same_draws_same_bytes() -> None:
    first, again = (draw(alone(), generator(0, "test", 1)) for _ in range(2))
    assert first.jpeg == again.jpeg
    assert first.jpeg != draw(alone(), generator(0, "test", 2)).jpeg
