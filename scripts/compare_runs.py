"""Recalls of several runs side by side, and the settings in which they differ.

    python scripts/compare_runs.py OUTPUT_DIR OUTPUT_DIR ... [--split test] [--markdown]

prints two tables. The best value of each column has a star. Where runs were judged in different ways (other
images, ties, folds or count), a line below the table says so: such numbers do not compare.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.errors import DataError
from scripts.command.program import Parser, naming_runs, run
from scripts.command.tables import Table, flatten, format_table
from scripts.page.outcome import Outcome, counting, open_outcome

COLUMNS = (("rsum", "rsum", 1, max), ("txt_r1", "i→t R@1", 100, max), ("txt_r5", "R@5", 100, max),
           ("txt_r10", "R@10", 100, max), ("txt_medr", "medr", 1, min), ("img_r1", "t→i R@1", 100, max),
           ("img_r5", "R@5", 100, max), ("img_r10", "R@10", 100, max), ("img_medr", "medr", 1, min))
_PASSING = "output."  # where a run was written and how often it was logged are no differences


def recall_table(names: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> Table:
    """One row a run, the best value of each column with a star."""
    columns = [["run", *names]]
    for key, title, scale, better in COLUMNS:
        values = [scale * entry["recalls"][key] for entry in entries]
        best = better(values)
        columns.append([title, *(f"{value:.1f}{'*' if value == best else ' '}" for value in values)])
    return [list(row) for row in zip(*columns, strict=True)]


def setting_table(names: Sequence[str], outcomes: Sequence[Outcome]) -> Table:
    """One row for each setting that differs; a run without it shows a dash. Empty if none differs."""
    flat = [dict(flatten(outcome.config)) for outcome in outcomes]
    keys = sorted({key for settings in flat for key in settings if not key.startswith(_PASSING)})
    rows = [[key, *(str(settings.get(key, "-")) for settings in flat)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return [["setting", *names], *rows] if rows else []


def unlike(names: Sequence[str], entries: Sequence[dict[str, Any]]) -> list[str]:
    """In words, for each way of judging that differs: who was judged how."""
    ways: dict[str, Callable[[dict[str, Any]], Any]] = {
        "images": lambda entry: entry.get("images"), "texts": lambda entry: entry.get("texts"),
        "ties": lambda entry: counting(entry).ties, "image retrieval count": lambda entry: counting(entry).ir_count,
        "folds": lambda entry: counting(entry).folds, "median rank": lambda entry: counting(entry).median_rank}
    told = []
    for title, look in ways.items():
        values = [str(look(entry)) for entry in entries]
        if len(set(values)) > 1:
            pairs = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            told.append(f"not comparable, {title} differ: {pairs}")
    return told


def short_names(folders: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where two are alike."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output_dirs", type=Path, nargs="+", metavar="OUTPUT_DIR",
                        help="output folders of runs")
    parser.add_argument("--split", default="test", help="the evaluated split (%(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    args = parser.parse_args(naming_runs(argv))
    outcomes = [open_outcome(folder) for folder in args.output_dirs]
    names = short_names([outcome.folder for outcome in outcomes])
    for outcome in outcomes:
        if args.split not in outcome.results:
            there = ", ".join(outcome.results) or "none"
            raise DataError(f"{outcome.folder}: split {args.split!r} was not evaluated (evaluated: {there}); "
                            "evaluate it, or name another with --split")
    entries = [outcome.results[args.split] for outcome in outcomes]
    print(format_table(recall_table(names, entries), args.markdown))
    for line in unlike(names, entries):
        print(line)
    settings = setting_table(names, outcomes)
    print("\n" + (format_table(settings, args.markdown) if settings else "no setting differs"))
    return 0


if __name__ == "__main__":
    run(main)
