"""Colour, shape and texture histograms of picture regions: features that need no downloaded weights.

A picture is cut into a fine grid of cells, each cell gets one histogram a kind, and the histograms are
accumulated from the top left corner. The histogram of any box is then four look-ups (bilinear between cell
corners), so the cost depends on neither the number nor the size of the boxes. `describe` makes the raw
features, `Whitener` turns them into `img_dim` decorrelated numbers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.intp]

EDGE_SIDE = 160  # edges and texture are read from the picture reduced to at most this longer side
COLOUR_SIDE = 112  # colour from a smaller one: it needs no detail, and noise averages out
CELLS = 64  # cells along the longer side
PARTS = 6  # a box is looked at in PARTS x PARTS parts

HUES, TONES, GREYS = 12, 3, 5
COLOURS = HUES * TONES + GREYS
ANGLES = 8
CODES = 10  # uniform rotation-invariant local binary patterns of eight neighbours: 0..8 ones, or irregular
RADII = (1, 2)
LBP_STEP = np.int16(6)  # a neighbour counts as brighter from this many grey levels on: sensor noise stays flat

RAW_DIM = 2 * COLOURS + (PARTS // 2) ** 2 * ANGLES + len(RADII) * CODES + PARTS**2


def describe(pixels: NDArray[np.uint8], boxes: NDArray[np.floating]) -> Floats:
    """Raw features of boxes: colour (whole, centre), gradients in 3 x 3 parts, texture, outline.

    Each block is a histogram that sums to one, square-rooted, so that the dot product of two blocks is their
    Bhattacharyya coefficient. The last block says how alike the colours of each part are to those of the
    middle: the outline of the thing in the box whatever its colour.

    Args:
        pixels: [h, w, 3] uint8, RGB.
        boxes: [n, 4], x1 y1 x2 y2 in pixels of this picture; parts outside the picture count as empty.
    Returns:
        [n, RAW_DIM] float32.
    """
    height, width = pixels.shape[:2]
    table = _cumulative_table(pixels)
    scale = np.array([table.shape[1] - 1, table.shape[0] - 1] * 2) / np.array([width, height] * 2)
    parts = _box_parts(table, np.asarray(boxes, np.float64).reshape(-1, 4) * scale)
    colour, angle, code = np.split(parts, [COLOURS, COLOURS + ANGLES], axis=-1)

    count = len(parts)
    middle = slice(PARTS // 2 - 1, PARTS // 2 + 1)
    whole = _hellinger(colour.sum((1, 2)))
    centre = _hellinger(colour[:, middle, middle].sum((1, 2)))
    outline = np.einsum("nyxc,nc->nyx", _hellinger(colour), centre) / PARTS
    angle = angle.reshape(count, PARTS // 2, 2, PARTS // 2, 2, ANGLES).sum((2, 4))
    angle = _hellinger(angle.reshape(count, (PARTS // 2) ** 2 * ANGLES))
    code = _hellinger(code.sum((1, 2)).reshape(count, len(RADII), CODES))
    blocks = (whole, centre, angle, code.reshape(count, len(RADII) * CODES), outline.reshape(count, PARTS**2))
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def _cumulative_table(pixels: NDArray[np.uint8]) -> Floats:
    """Histograms of all that lies above and left of each cell corner [rows + 1, columns + 1, bins]."""
    height, width = pixels.shape[:2]
    step = max(height, width) / min(CELLS, max(height, width))
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    fine, coarse = _reduce(pixels, EDGE_SIDE), _reduce(pixels, COLOUR_SIDE)
    tables = (
        _cumulate(*_colour_votes(coarse), _cell_of(coarse, rows, columns), (rows, columns, COLOURS)),
        _cumulate(*_gradient_votes(fine), _cell_of(fine, rows, columns), (rows, columns, ANGLES)),
        _cumulate(_texture_votes(fine), None, _cell_of(fine, rows, columns), (rows, columns, len(RADII) * CODES)),
    )
    return np.concatenate(tables, axis=2, dtype=np.float32)


def _reduce(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = max(height, width) / side
    if factor <= 1:
        return pixels
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _cell_of(pixels: NDArray[np.uint8], rows: int, columns: int) -> Ints:
    """The cell each pixel lies in [h * w]."""
    height, width = pixels.shape[:2]
    y = np.arange(height) * rows // height
    x = np.arange(width) * columns // width
    return (y[:, None] * columns + x).reshape(-1)


def _cumulate(bins: Ints, weights: Doubles | None, cell: Ints, shape: tuple[int, int, int]) -> Doubles:
    """Votes [h * w, k] for bins, summed over all cells above and left of each corner."""
    where = (bins + cell[:, None] * shape[2]).reshape(-1)
    votes = np.bincount(
        where, None if weights is None else weights.reshape(-1), minlength=shape[0] * shape[1] * shape[2]
    )
    table = np.zeros((shape[0] + 1, shape[1] + 1, shape[2]))
    table[1:, 1:] = votes.reshape(shape).cumsum(0).cumsum(1)
    return table


def _box_parts(table: Floats, boxes: Doubles) -> Floats:
    """Histograms [n, PARTS, PARTS, bins] of the parts of each box, whose corners are given in cells."""
    steps = np.linspace(0, 1, PARTS + 1)
    x = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * steps
    y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps
    (top, down), (left, right) = _split(y, table.shape[0]), _split(x, table.shape[1])
    rows = ((top[0], top[1]), (down[0], down[1]))
    columns = ((left[0], left[1]), (right[0], right[1]))
    corners = np.zeros((len(boxes), PARTS + 1, PARTS + 1, table.shape[2]), np.float32)
    for row, row_share in rows:
        for column, column_share in columns:
            share = (row_share[:, :, None] * column_share[:, None, :]).astype(np.float32)
            corners += table[row[:, :, None], column[:, None, :]] * share[..., None]
    return np.maximum(np.diff(np.diff(corners, axis=1), axis=2), 0)


def _split(place: Doubles, size: int) -> tuple[tuple[Ints, Doubles], tuple[Ints, Doubles]]:
    """The two grid lines around each place and the share of each; places outside are moved to the rim."""
    place = np.clip(place, 0, size - 1)
    first = np.minimum(place.astype(np.intp), size - 2)
    return (first, 1 - (place - first)), (first + 1, place - first)


def _hellinger(histogram: Floats) -> Floats:
    """Square root of the histogram's shares along the last axis; an empty one stays zero."""
    total = histogram.sum(-1, keepdims=True)
    return np.sqrt(histogram / np.maximum(total, 1e-6))


def _colour_votes(pixels: NDArray[np.uint8]) -> tuple[Ints, Doubles]:
    """Six votes a pixel: two hues by two tones, and two greys; the more colourless, the more goes to grey."""
    level = (pixels >> 3).astype(np.intp)
    code = (level[..., 0] << 10 | level[..., 1] << 5 | level[..., 2]).reshape(-1)
    bins, weights = _colour_table()
    return bins[code], weights[code]


@cache
def _colour_table() -> tuple[Ints, Doubles]:
    """Bins and weights [32768, 6] of every colour at five bits a channel."""
    level = (np.arange(32) * 8 + 4) / 255
    red, green, blue = (axis.reshape(-1) for axis in np.meshgrid(level, level, level, indexing="ij"))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    light = high - chroma / 2
    safe = np.maximum(chroma, 1e-9)
    hue = np.select(
        [high == red, high == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    hue_low, hue_share = _between(hue * HUES / 6, HUES)
    tone_low, tone_share = _between(np.clip(light * 1.6 - 0.3, 0, 1) * (TONES - 1), TONES)
    grey_low, grey_share = _between(light * (GREYS - 1), GREYS)
    colourful = np.clip((chroma - 0.06) / 0.24, 0, 1)

    bins, weights = [], []
    for h, h_weight in ((hue_low % HUES, 1 - hue_share), ((hue_low + 1) % HUES, hue_share)):
        for t, t_weight in ((tone_low, 1 - tone_share), (np.minimum(tone_low + 1, TONES - 1), tone_share)):
            bins.append(h * TONES + t)
            weights.append(colourful * h_weight * t_weight)
    for g, g_weight in ((grey_low, 1 - grey_share), (np.minimum(grey_low + 1, GREYS - 1), grey_share)):
        bins.append(HUES * TONES + g)
        weights.append((1 - colourful) * g_weight)
    return np.stack(bins, axis=1), np.stack(weights, axis=1)


def _between(place: Doubles, size: int) -> tuple[Ints, Doubles]:
    low = np.minimum(place.astype(np.intp), size - 1)
    return low, place - low


def _gradient_votes(pixels: NDArray[np.uint8]) -> tuple[Ints, Doubles]:
    """Two votes a pixel for edge directions 0..pi, as heavy as the edge in the channel that changes most."""
    values = pixels.transpose(2, 0, 1).astype(np.int32)
    dx, dy = np.zeros_like(values), np.zeros_like(values)
    dx[:, :, 1:-1] = values[:, :, 2:] - values[:, :, :-2]
    dy[:, 1:-1] = values[:, 2:] - values[:, :-2]
    squared = dx * dx + dy * dy
    best = squared.argmax(0)[None]
    dx, dy, squared = (np.take_along_axis(v, best, 0).reshape(-1) for v in (dx, dy, squared))
    strength = np.sqrt(squared.astype(np.float32))
    place = (np.arctan2(dy.astype(np.float32), dx) + np.float32(np.pi)) * np.float32(ANGLES / np.pi)
    low = place.astype(np.intp)
    share = place - low
    bins = np.stack([low, low + 1], axis=1) % ANGLES
    return bins, np.stack([strength * (1 - share), strength * share], axis=1)


def _texture_votes(pixels: NDArray[np.uint8]) -> Ints:
    """One vote a radius and pixel for its local binary pattern [h * w, radii]."""
    height, width = pixels.shape[:2]
    grey = (pixels @ np.array([77, 150, 29], np.int32) >> 8).astype(np.int16)
    reach = max(RADII)
    padded = np.pad(grey, reach, mode="edge")
    ring = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
    floor = grey + LBP_STEP
    votes = []
    for number, radius in enumerate(RADII):
        pattern = np.zeros((height, width), np.uint8)
        for bit, (down, right) in enumerate(ring):
            top, left = reach + down * radius, reach + right * radius
            brighter = padded[top : top + height, left : left + width] >= floor
            pattern |= brighter.view(np.uint8) << np.uint8(bit)
        votes.append(_pattern_codes()[pattern].reshape(-1) + number * CODES)
    return np.stack(votes, axis=1)


@cache
def _pattern_codes() -> Ints:
    """The code of each of 256 patterns: its number of ones if they are one run on the ring, else the last."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    runs = (bits != np.roll(bits, 1, axis=1)).sum(1)
    return np.where(runs <= 2, bits.sum(1), CODES - 1).astype(np.intp)
