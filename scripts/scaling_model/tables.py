"""What was measured, fitted and projected, as Markdown tables whose columns stand below each other."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.scaling_model.fitting import Fit, Point
from scripts.scaling_model.projecting import Projection

Table = list[list[str]]


def written(table: Table) -> str:
    """The table as text; its first row is the head, its first column stands on the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    lines = [table[0], rule, *table[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) if number == 0 else cell.rjust(width)
                          for number, (cell, width) in enumerate(zip(line, widths, strict=True))) + " |"
        for line in lines
    )  # fmt: skip


def measured(points: Sequence[Point], fit: Fit) -> Table:
    """A row for each measured point, and how far the model is from it."""
    rows = [["update", "measured", "not talking", "messages", "MB passed on", "error", "when left out"]]
    for point, error, left_out in zip(points, fit.errors, fit.left_out, strict=True):
        traffic = point.traffic
        rows.append([point.name, f"{1e3 * point.seconds:.1f} ms", f"{1e3 * point.silent:.1f} ms", str(traffic.rounds),
                     f"{(traffic.alone + traffic.behind) / 1e6:.1f}", f"{100 * error:+.1f} %",
                     f"{100 * left_out:+.1f} %"])
    return rows


def projected(found: Sequence[Projection]) -> Table:
    """A row for each update and number of GPUs, and in it what each network makes of it.

    Ranges run from as much hidden as can be to nothing hidden.
    """
    networks = list(dict.fromkeys(one.network for one in found))
    cells = ("update time", "efficiency", "items/s", "talking")
    rows = [["update", "GPUs", "largest gather", *(f"{network}: {cell}" for network in networks for cell in cells)]]
    for work, gpus in dict.fromkeys((one.work, one.gpus) for one in found):
        there = {one.network: one for one in found if (one.work, one.gpus) == (work, gpus)}
        some = there[networks[0]]
        rows.append([work, str(gpus), size(some.gathered), *(cell for name in networks for cell in told(there[name]))])
    return rows


def told(one: Projection) -> list[str]:
    """Time, efficiency, items a second and share of communication."""
    fast, slow = one.fast_s, one.slow_s
    return [
        f"{span(digits(1e3 * fast), digits(1e3 * slow))} ms",
        f"{span(f'{100 * one.efficiency(slow):.0f}', f'{100 * one.efficiency(fast):.0f}')} %",
        span(f"{one.rate(slow):,.0f}", f"{one.rate(fast):,.0f}"),
        f"{span(f'{100 * one.talking(fast):.0f}', f'{100 * one.talking(slow):.0f}')} %",
    ]


def span(low: str, high: str) -> str:
    """From one to the other, or the one that both are."""
    return low if low == high else f"{low} to {high}"


def digits(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    if not count:
        return "-"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
