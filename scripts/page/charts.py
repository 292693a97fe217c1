"""The three kinds of chart a report needs: curves, stacked layers, histograms; each with its legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from scripts.page import plot
from scripts.page.plot import Axes, Points

Values = Sequence[float] | Points

_MOST_POINTS = 240  # more cannot be seen on this width
_MARKED = 40  # fewer points than this are marked and tell their values


@dataclass(frozen=True)
class Line:
    """One series: xs and ys [n]; NaN makes a gap.

    A noisy line is drawn pale under its moving mean. `look` is its class in the style ("c0" to "c4", "quiet",
    "dashed"); without it lines are coloured in their order.
    """

    name: str
    xs: Values
    ys: Values
    noisy: bool = False
    look: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing and its legend: (class of the colour, name, what is said beside it)."""

    title: str
    svg: Markup
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    note: str = ""


def curves(title: str, lines: Sequence[Line], *, x_label: str = "step", percent: bool = False,
           log_x: bool = False, last: bool = True, note: str = "") -> Chart:
    """Lines over a common x; with `last` the legend tells the last value of each."""
    xs = np.concatenate([thinned(np.asarray(line.xs, float)) for line in lines])
    ys = np.concatenate([thinned(np.asarray(line.ys, float)) for line in lines])
    ys = np.append(ys[np.isfinite(ys)], 0.0)
    bottom, top = plot.widened(ys.min(), ys.max())
    axes = Axes((xs.min(), bottom), (xs.max(), min(top, 1.0) if percent else top), log_x, percent)
    looks = [line.look or f"c{number}" for number, line in enumerate(lines)]
    parts = [plot.frame(axes, x_label)]
    for look, line in zip(looks, lines, strict=True):
        parts += _curve(axes, line, look, x_label)
    legend = [(look, line.name, axes.said(_last(line.ys)) if last else "")
              for look, line in zip(looks, lines, strict=True)]
    return Chart(title, plot.drawing(title, parts), legend, note)


def layers(title: str, xs: Values, heights: Mapping[str, Values], *, note: str = "") -> Chart:
    """Layers on top of one another over steps; the legend tells the share of each in the whole."""
    thick = np.nan_to_num(np.array([thinned(np.asarray(ys, float)) for ys in heights.values()]))
    steps = thinned(np.asarray(xs, float))
    edges = np.cumsum(np.vstack([np.zeros_like(steps), thick]), axis=0)
    most = float(np.percentile(edges[-1], 98))  # one slow step is cut off rather than flattening all others
    axes = Axes((steps[0], 0.0), (steps[-1], plot.widened(0.0, 1.1 * most)[1]))
    across, drawn = axes.at(steps, np.minimum(edges, axes.high[1]))
    parts = [plot.area(f"c{n}", across, drawn[n + 1], drawn[n]) for n in range(len(thick))]
    shares = thick.sum(axis=1) / (thick.sum() or 1)
    legend = [(f"c{n}", name, f"{shares[n]:.0%}") for n, name in enumerate(heights)]
    return Chart(title, plot.drawing(title, [*parts, plot.frame(axes, "step")]), legend, note)


def histogram(title: str, edges: Points, counts: dict[str, NDArray[np.int64]], *, x_label: str,
              note: str = "") -> Chart:
    """Counts over the same bins, each drawn to its own highest bin; edges [n + 1], counts [n]."""
    axes = Axes((float(edges[0]), 0.0), (float(edges[-1]), 1.05))
    parts = []
    for number, count in enumerate(counts.values()):
        xs, ys = axes.at(np.repeat(edges, 2)[1:-1], np.repeat(count / (count.max() or 1), 2))
        parts += [plot.area(f"c{number} see", xs, ys, np.full_like(ys, plot.BASE)),
                  plot.path(f"line c{number}", xs, ys)]
    legend = [(f"c{number}", name, "") for number, name in enumerate(counts)]
    return Chart(title, plot.drawing(title, [*parts, plot.frame(axes, x_label, heights=False)]), legend, note)


def thinned(values: Points) -> Points:
    """Means of neighbouring values where there are more than can be seen; [n] to [at most 240]."""
    if len(values) <= _MOST_POINTS:
        return values
    starts = np.linspace(0, len(values), _MOST_POINTS + 1).astype(int)
    return np.add.reduceat(values, starts[:-1]) / np.diff(starts)


def smoothed(values: Points) -> Points:
    """Mean over a window of a twelfth of the curve; gaps stay gaps."""
    window, known = np.ones(max(3, len(values) // 12)), np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), window, "same")
    return np.where(known, total / np.maximum(np.convolve(known, window, "same"), 1), np.nan)


def _curve(axes: Axes, line: Line, colour: str, x_label: str) -> list[str]:
    xs, ys = thinned(np.asarray(line.xs, float)), thinned(np.asarray(line.ys, float))
    across, up = axes.at(xs, ys)
    if len(xs) > _MARKED or axes.log_x:
        if not line.noisy:
            return [plot.path(f"line {colour}", across, up)]
        return [plot.path(f"line pale {colour}", across, up),
                plot.path(f"line {colour}", across, smoothed(up))]
    marks = [plot.mark(colour, x, y, f"{line.name}, {x_label} {plot.plain(value)}: {axes.said(told)}")
             for x, y, value, told in zip(across, up, xs, ys, strict=True) if np.isfinite(y)]
    return [plot.path(f"line {colour}", across, up), *marks]


def _last(ys: Values) -> float:
    known = np.asarray(ys, float)
    known = known[np.isfinite(known)]
    return float(known[-1]) if len(known) else float("nan")
