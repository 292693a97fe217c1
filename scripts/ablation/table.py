"""Rows of runs as the table of a paper: means over seeds with their intervals, and paired differences."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from config.errors import ConfigError
from config.hints import did_you_mean
from scripts.ablation.rows import JUDGED, PLUS, Row
from scripts.command.tables import format_table

CONFIDENCE = 0.95
NOTE = (f"mean ± half-width of the {100 * CONFIDENCE:.0f} % Student-t interval over n seeds (no interval for one "
        "seed); recalls in percent; differences are paired by seed")
_RECALL = re.compile(r"(?:(txt|img)_)?r(?:(\d+)|_mean)")
_SIDES = {"txt": "i→t", "img": "t→i"}


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds, and the half-width of its interval; None for a single seed."""

    mean: float
    half: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one number, with its Student-t interval."""
    n = len(values)
    half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Estimate(statistics.fmean(values), half, n)


def t_quantile(freedom: int) -> float:
    """The t within which, on both sides of zero, CONFIDENCE of Student's distribution lies; `freedom` at least 1.

    No library that the project needs has this quantile. For whole degrees of freedom the distribution is a
    finite sum, so it is solved to the last digits by halving, and no table of numbers has to be trusted.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|T| < t) for t = sqrt(freedom) tan(angle): Abramowitz and Stegun, equations 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    part = math.sin(angle) * total
    return 2 / math.pi * (angle + part) if odd else part


@dataclass(frozen=True)
class Measure:
    """A column: its name in the rows, its title, the factor it is shown with, and decimal places."""

    column: str
    title: str
    scale: float
    places: int

    def shown(self, found: Estimate, n: int, sign: str = "") -> str:
        """Such as `35.2 ± 1.1`, with the number of seeds where it is not the line's `n`."""
        text = f"{self.scale * found.mean:{sign}z.{self.places}f}"
        if found.half is not None:
            text += f" ± {self.scale * found.half:.{self.places}f}"
        return text if found.n == n else f"{text} (n={found.n})"


def find_measure(name: str, split: str, rows: Sequence[Row]) -> Measure:
    """The column that a --report name means: a recall of the split, or any column by its whole name.

    Raises:
        ConfigError: no row has such a number.
    """
    known = dict.fromkeys(["train_s", *(key for row in rows for key in row.values if row.number(key) is not None)])
    column = name if name in known else f"{split}/{name}"
    values = [value for row in rows if (value := row.number(column)) is not None]
    if not values:
        short = [key.removeprefix(f"{split}/") for key in known]
        raise ConfigError(f"--report {name}: no run has this number of split {split!r}; "
                          + did_you_mean(name, short, f"there are {', '.join(short)}"))
    recall = _RECALL.fullmatch(name.rpartition("/")[2])
    if recall:
        return Measure(column, _title(name, recall), 100, 1)
    return Measure(column, name, 1, 1 if name.endswith("rsum") else _places(max(map(abs, values))))


def _title(name: str, recall: re.Match[str]) -> str:
    side, top = recall.groups()
    before = name.rpartition("/")[0]
    title = f"{_SIDES[side]} R@{top}" if side and top else name.rpartition("/")[2]
    return f"{before} {title}" if before else title


def _places(largest: float) -> int:
    """Decimal places that show four digits of the largest number."""
    return min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest else 1


def tables(rows: Sequence[Row], configs: Sequence[str], report: Sequence[str], split: str) -> str:
    """The tables in Markdown, with what has to be known to read them: the means, one line for each config; then the
    differences to the first config, or to the first variant of each.
    """
    rows = [row for row in rows if row.config in configs]
    measures = [find_measure(name, split, rows) for name in report]
    runs = {config: {row.seed: row for row in rows if row.config == config} for config in configs}
    titles = [measure.title for measure in measures]
    means = [[config, str(len(runs[config])), *_means(runs[config], measures)] for config in configs]
    parts = [format_table([["config", "n", *titles], *means], markdown=True)]
    for first, *others in compared(configs):
        if others:
            lines = [[config, *_differences(runs[config], runs[first], measures)] for config in others]
            parts.append(format_table([[f"minus {first}", "n", *titles], *lines], markdown=True))
    return "\n\n".join([*parts, "\n".join([NOTE, *unlike(runs, split)])])


def compared(configs: Sequence[str]) -> list[list[str]]:
    """Which are set against each other: the variants of one config; configs without variants among themselves."""
    groups: dict[str, list[str]] = {}
    for config in configs:
        stem, plus, _ = config.rpartition(PLUS)
        groups.setdefault(stem if plus else "", []).append(config)
    return list(groups.values())


def _means(runs: Mapping[int, Row], measures: Sequence[Measure]) -> list[str]:
    cells = []
    for measure in measures:
        values = [value for row in runs.values() if (value := row.number(measure.column)) is not None]
        cells.append(measure.shown(estimate(values), len(runs)) if values else "-")
    return cells


def _differences(ours: Mapping[int, Row], theirs: Mapping[int, Row], measures: Sequence[Measure]) -> list[str]:
    """The number of seeds that both have, and for each measure the mean difference over them."""
    pairs = [(row, theirs[seed]) for seed, row in ours.items() if seed in theirs]
    cells = [str(len(pairs))]
    for measure in measures:
        numbers = [(one.number(measure.column), other.number(measure.column)) for one, other in pairs]
        values = [one - other for one, other in numbers if one is not None and other is not None]
        cells.append(measure.shown(estimate(values), len(pairs), "+") if values else "-")
    return cells


def unlike(runs: Mapping[str, Mapping[int, Row]], split: str) -> list[str]:
    """In words, what keeps the runs from being compared: other ranks, or recalls counted in another way."""
    told = []
    for title in ("ranks", *JUDGED):
        values = {config: {_fact(row, title, split) for row in some.values()} for config, some in runs.items()}
        if len(set().union(*values.values()) - {""}) > 1:
            pairs = ", ".join(f"{config} {' and '.join(sorted(found - {''}))}" for config, found in values.items())
            told.append(f"not comparable, {title} differ: {pairs}")
    return told


def _fact(row: Row, title: str, split: str) -> str:
    value = row.ranks if title == "ranks" else row.values.get(f"{split}/{title}", "")
    return value if isinstance(value, str) else f"{value:g}"
