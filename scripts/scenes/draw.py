"""Scenes as pictures: textured, slightly turned shapes on an uneven, noisy ground, drawn double-size and reduced."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scripts.scenes.world import COLOURS, GRID, Scene, Thing

SIDE = 160  # pixels of a picture
ZOOM = 2  # drawn this many times larger, so that edges come out smooth
MARGIN = 2
JITTER = 5.0  # pixels an object may stand off the middle of its cell
RADII = {"small": (11.5, 13.5), "large": (19.5, 22.5)}
GROUNDS = ((196, 190, 178), (178, 190, 200), (184, 198, 180), (200, 184, 190), (170, 170, 174), (206, 200, 164))
PALE_PATTERN = frozenset({"black", "blue", "brown", "pink", "purple"})  # the others get a darker pattern
QUALITY = 92


@dataclass(frozen=True)
class Picture:
    """The encoded picture and the true box [n, 4] (x1 y1 x2 y2 in pixels) of each object."""

    jpeg: bytes
    boxes: NDArray[np.float32]


def draw(scene: Scene, rng: np.random.Generator) -> Picture:
    """Draw a scene; everything that is no fact (place in the cell, turn, shade, ground, noise) comes from rng."""
    side = SIDE * ZOOM
    canvas = Image.fromarray(_ground(rng, side))
    boxes = np.zeros((len(scene.things), 4), np.float32)
    for number, (thing, cell) in enumerate(zip(scene.things, scene.cells, strict=True)):
        radius = rng.uniform(*RADII[thing.size])
        room = SIDE / GRID
        row, column = divmod(cell, GRID)
        centre = np.array([column + 0.5, row + 0.5]) * room + rng.uniform(-JITTER, JITTER, 2)
        centre = np.clip(centre, radius * 1.1 + MARGIN, SIDE - radius * 1.1 - MARGIN)
        mask = _mask(thing.shape, centre * ZOOM, radius * ZOOM, rng, side)
        left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
        boxes[number] = np.array([left, top, right, bottom]) / ZOOM
        fill = Image.fromarray(_fill(thing, (right - left, bottom - top), rng))
        canvas.paste(fill, (left, top), mask.crop((left, top, right, bottom)))
    pixels = np.asarray(canvas.reduce(ZOOM), np.float32)
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(2, 7))
    pixels = pixels * _light(rng)[..., None] + noise
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return Picture(buffer.getvalue(), boxes)


def _ground(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """A pale ground with soft patches, from a few random greys spread over the picture."""
    colour = np.array(GROUNDS[rng.integers(len(GROUNDS))], np.float32) + rng.normal(0, 4, 3)
    patches = rng.normal(0, 9, (5, 5, 1)) + rng.normal(0, 3, (5, 5, 3))
    coarse = Image.fromarray((colour + patches).clip(0, 255).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _light(rng: np.random.Generator) -> NDArray[np.float32]:
    """Brightness [SIDE, SIDE] that falls off gently in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-1, 1, SIDE, dtype=np.float32)
    return 1 + rng.uniform(0, 0.1) * (line[None] * np.cos(angle) + line[:, None] * np.sin(angle)).astype(np.float32)


def _mask(shape: str, centre: NDArray[np.float64], radius: float, rng: np.random.Generator, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    x, y = centre
    if shape in ("circle", "ring"):
        radius *= 0.95
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if shape == "ring":
            hole = radius * 0.5
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return mask
    turn = np.deg2rad(rng.uniform(-9, 9))
    turned = _outline(shape) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    pen.polygon([(px, py) for px, py in (turned * radius + centre).tolist()], fill=255)
    return mask


def _outline(shape: str) -> NDArray[np.float64]:
    """Corners [n, 2] of a shape of about unit radius, y pointing down."""
    if shape == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.82
    if shape == "diamond":
        return np.array([(0, -1.1), (0.85, 0), (0, 1.1), (-0.85, 0)])
    if shape == "triangle":
        return np.array([(0, -1.0), (1.02, 0.8), (-1.02, 0.8)])
    if shape == "cross":
        arm = 0.34
        quarter = [(-arm, -1), (arm, -1), (arm, -arm)]
        spin = np.array([[0, 1], [-1, 0]])
        corners, turned = [], np.array(quarter, float)
        for _ in range(4):
            corners.append(turned)
            turned = turned @ spin
        return np.concatenate(corners)
    if shape == "star":
        angle = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2, 0.46, 1.1)
        return np.stack([np.sin(angle), -np.cos(angle)], axis=1) * reach[:, None]
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = np.sin(angle) ** 3
    y = -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)) / 15
    return np.stack([x, y + 0.05], axis=1)


def _fill(thing: Thing, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The object's surface [height, width, 3]: its colour, with a lighter or darker tint of it as the pattern."""
    colour = np.array(COLOURS[thing.colour], np.float32) + rng.normal(0, 7, 3)
    tint = colour + 0.6 * (255 - colour) if thing.colour in PALE_PATTERN else colour * 0.55
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32) / ZOOM
    pattern = _pattern(thing.texture, x, y, rng)
    return (colour + pattern[..., None] * (tint - colour)).clip(0, 255).astype(np.uint8)


def _pattern(
    texture: str, x: NDArray[np.float32], y: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Where the tint shows: 0 or 1 at each place; phase and direction are drawn, the period hardly varies."""
    period = rng.uniform(7.0, 8.5)
    shift = rng.uniform(0, period, 2).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    if texture == "striped":
        along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) + shift[0]
        return (along % period < period * 0.45).astype(np.float32)
    u, v = (x + shift[0]) / period, (y + shift[1]) / period
    if texture == "checked":
        return ((np.floor(u * 1.6) + np.floor(v * 1.6)) % 2).astype(np.float32)
    if texture == "dotted":
        u = u + 0.5 * (np.floor(v) % 2)
        return ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.085).astype(np.float32)
    return np.zeros_like(x)
