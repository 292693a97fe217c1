"""The parts of an SVG plot: axes with round ticks, paths with gaps, marks that tell their value.

Nothing here names a colour: series n has the class `c{n}`, and the page's style decides, for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Points = NDArray[np.float64]

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 36
BASE = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Axes:
    """Where values land on the drawing; low and high are (x, y)."""

    low: tuple[float, float]
    high: tuple[float, float]
    log_x: bool = False
    percent: bool = False

    def at(self, xs: Any, ys: Any) -> tuple[Points, Points]:
        """Drawing coordinates of values, any number of them."""
        change = np.log10 if self.log_x else np.asarray
        low, high = float(change(self.low[0])), float(change(self.high[0]))
        across = (change(xs) - low) / ((high - low) or 1)
        up = (np.asarray(ys, float) - self.low[1]) / ((self.high[1] - self.low[1]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), BASE - up * (BASE - TOP)

    def said(self, value: float) -> str:
        """A y value as the legend writes it."""
        if not math.isfinite(value):
            return "no number"
        return f"{100 * value:.1f} %" if self.percent else plain(value)


def plain(value: float) -> str:
    """A number in few digits, such as 0.25, 12,500 or 3e-05."""
    whole = abs(value) >= 100 or value == round(value)
    return f"{value:,.0f}" if whole and 0.5 <= abs(value) < 1e7 else f"{value:.3g}"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from low to high."""
    rough = ((high - low) or 1.0) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def widened(low: float, high: float) -> tuple[float, float]:
    """The range of the ticks that enclose low and high."""
    if high <= low:
        low, high = low - abs(low) / 2, high + (abs(high) / 2 or 1)
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def frame(axes: Axes, x_label: str, heights: bool = True) -> str:
    """Grid, tick labels and the name of the x axis; without `heights` the y axis has no numbers."""
    parts = [f'<path class="axis" d="M{LEFT} {BASE}H{WIDTH - RIGHT}"/>']
    if heights:
        for value in ticks(axes.low[1], axes.high[1]):
            y = float(axes.at(axes.low[0], value)[1])
            label = f"{100 * value:.0f} %" if axes.percent else plain(value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
                         f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{label}</text>')
    for value in _across(axes):
        x = float(axes.at(value, 0)[0])
        parts.append(f'<text class="mid" x="{x:.1f}" y="{BASE + 16}">{plain(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="mid name" x="{middle}" y="{HEIGHT - 3}">{escape(x_label)}</text>')
    return "".join(parts)


def path(kind: str, xs: Points, ys: Points) -> str:
    """A line through drawing coordinates, broken where y is NaN."""
    pieces, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if np.isfinite(y):
            pieces.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L" if np.isfinite(y) else "M"
    return f'<path class="{kind}" d="{"".join(pieces)}"/>'


def area(kind: str, xs: Points, upper: Points, lower: Points) -> str:
    """The surface between two lines; [n] each, without gaps."""
    ring = [*zip(xs, upper, strict=True), *zip(xs[::-1], lower[::-1], strict=True)]
    return f'<path class="area {kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in ring)}Z"/>'


def mark(kind: str, x: float, y: float, told: str) -> str:
    """A dot that tells its value under the pointer."""
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="3"'
    return f'<circle class="dot {kind}" {place}><title>{escape(told)}</title></circle>'


def drawing(title: str, parts: Iterable[str]) -> Markup:
    """The whole SVG element; `parts` are made by the functions above, which escape what they are given."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("".join(parts)))


def _across(axes: Axes) -> list[float]:
    low, high = axes.low[0], axes.high[0]
    if axes.log_x:
        first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
        return [10.0 ** power for power in range(first, last + 1)]
    return ticks(low, high, 5)
