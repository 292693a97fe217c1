"""The projection as one SVG file that needs nothing else, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import escape

from scripts.page import plot
from scripts.page.plot import Axes
from scripts.scaling_model.projecting import Projection

GAP, LINE = 40, 18
STYLE = """
svg { --ink: #21272e; --soft: #626b75; --rule: #e2dfd8; --paper: #ffffff; --c0: #2f6da8; --c1: #cf7426; --c2: #3b8a58;
  --c3: #8a5ca6; --c4: #7b8590; font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e3e6e9; --soft: #9aa4ae; --rule: #31373e; --paper: #1d2126;
  --c0: #6ea8de; --c1: #eb9f5c; --c2: #73c392; --c3: #bd94d6; --c4: #8e98a3; } }
.paper { fill: var(--paper); } text { fill: var(--soft); } .title { fill: var(--ink); font-weight: 600; }
.end { text-anchor: end; } .mid { text-anchor: middle; }
.grid { stroke: var(--rule); fill: none; } .axis { stroke: var(--soft); fill: none; }
.line { stroke: var(--colour); stroke-width: 2; fill: none; } .area { fill: var(--colour); opacity: 0.2; }
.dot { fill: var(--paper); stroke: var(--colour); stroke-width: 2; } .key { fill: var(--colour); }
""" + " ".join(f".c{number} {{ --colour: var(--c{number}); }}" for number in range(5))


def drawn(found: Sequence[Projection]) -> str:
    """Efficiency over GPUs, a panel for each update, a band for each network: nothing hidden to all that can be."""
    works = list(dict.fromkeys(one.work for one in found))
    networks = list(dict.fromkeys(one.network for one in found))
    parts = []
    for place, work in enumerate(works):
        body = panel([one for one in found if one.work == work], networks)
        parts.append(f'<g transform="translate({place * (plot.WIDTH + GAP)} {LINE + 6})">'
                     f'<text class="title" x="{plot.LEFT}" y="-2">{escape(work)}: efficiency</text>{body}</g>')
    width = len(works) * (plot.WIDTH + GAP) - GAP
    height = plot.HEIGHT + 2 * LINE + 16
    for number, network in enumerate(networks):
        x = plot.LEFT + number * 260
        parts.append(f'<rect class="key c{number}" x="{x}" y="{height - 18}" width="12" height="12" rx="3"/>'
                     f'<text x="{x + 18}" y="{height - 8}">{escape(network)}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
            f'aria-label="Projected efficiency over GPUs"><style>{STYLE}</style>'
            f'<rect class="paper" width="{width}" height="{height}"/>{"".join(parts)}</svg>\n')


def panel(found: Sequence[Projection], networks: Sequence[str]) -> str:
    """The bands of one update's networks over their axes."""
    counts = sorted({one.gpus for one in found})
    axes = Axes((math.log2(counts[0]), 0.0), (math.log2(counts[-1]), 1.0), percent=True)
    parts = [frame(axes, counts)]
    for number, network in enumerate(networks):
        line = sorted((one for one in found if one.network == network), key=lambda one: one.gpus)
        xs = np.log2([one.gpus for one in line])
        fast, slow = (np.array([one.efficiency(getattr(one, f"{which}_s")) for one in line])
                      for which in ("fast", "slow"))
        across, top = axes.at(xs, fast)
        bottom = axes.at(xs, slow)[1]
        look = f"c{number}"
        parts += [plot.area(look, across, top, bottom), plot.path(f"line {look}", across, top),
                  plot.path(f"line {look}", across, bottom)]
        parts += [plot.mark(look, x, y, f"{network}, {one.gpus} GPUs: {axes.said(value)}")
                  for x, y, one, value in zip(across, top, line, fast, strict=True)]
    return "".join(parts)


def frame(axes: Axes, counts: Sequence[int]) -> str:
    """Grid and labels: shares upwards, GPUs across, each doubling as wide as the next."""
    parts = [f'<path class="axis" d="M{plot.LEFT} {plot.BASE}H{plot.WIDTH - plot.RIGHT}"/>']
    for share in (0.25, 0.5, 0.75, 1.0):
        y = float(axes.at(axes.low[0], share)[1])
        parts.append(f'<path class="grid" d="M{plot.LEFT} {y:.1f}H{plot.WIDTH - plot.RIGHT}"/>'
                     f'<text class="end" x="{plot.LEFT - 6}" y="{y + 4:.1f}">{100 * share:.0f} %</text>')
    for count in counts:
        x = float(axes.at(math.log2(count), 0)[0])
        parts.append(f'<text class="mid" x="{x:.1f}" y="{plot.BASE + 16}">{count}</text>')
    middle = (plot.LEFT + plot.WIDTH - plot.RIGHT) / 2
    parts.append(f'<text class="mid" x="{middle}" y="{plot.HEIGHT - 3}">GPUs</text>')
    return "".join(parts)
