"""Measure this project against its peers and its machine, side by side in one run; ratios are what counts.

    python scripts/bench.py                     # everything, some minutes
    python scripts/bench.py reading packing     # only these
    python scripts/bench.py --quick             # every benchmark in miniature, to see that it works

Contestants take turns and are timed in processor seconds, so that a busy machine slows all alike; only the update, a
real command of several processes, is timed by the clock on the wall. Medians are shown. Prints a table and writes
`results.json` into the output folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from data.files import write_json
from scripts.benchmarks.timing import Row
from scripts.command.parallel import cores
from scripts.command.program import Parser, run

BENCHMARKS = ("reading", "packing", "update", "evaluation", "alignment", "late", "slimming", "mining")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = Parser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=f"any of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="in miniature: the numbers mean nothing")
    parser.add_argument("--output", type=Path, default=Path(".bench"), help="folder of results.json (default: .bench)")
    args = parser.parse_args(words)
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}")
    return args


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    facts = {"cores": cores(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return facts | {"python": platform.python_version(), "load": round(os.getloadavg()[0], 1)}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmarks that were asked for."""
    args = parse(words)
    args.output.mkdir(parents=True, exist_ok=True)
    facts = machine()
    found: list[Row] = []
    for name in args.names or BENCHMARKS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=args.output, prefix=f"{name}-") as folder:
            found += import_module(f"scripts.benchmarks.{name}").rows(Path(folder), args.quick)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    if facts["load"] > 0.5:
        print("the machine was busy: the update, timed by the clock on the wall, looks slower than it is")
    print(table(found))
    write_json(args.output / "results.json", {"machine": facts, "rows": [row.plain() for row in found]})
    return 0


def table(found: Sequence[Row]) -> str:
    """The rows as aligned text, with the notes of each below it."""
    cells = [("", "ours", "peer", "ratio", "aim", "")]
    cells += [
        (row.name, number(row.ours), number(row.peer), factor(row.ratio), factor(row.aim), row.verdict) for row in found
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["", "  ".join(cell.rjust(width) for cell, width in zip(cells[0], widths, strict=True))]
    group = ""
    for row, line in zip(found, cells[1:], strict=True):
        if row.group != group:
            group = row.group
            lines += ["", group]
        name, *rest = line
        shown = "  ".join(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append(f"{name.ljust(widths[0])}  {shown}  {row.unit}".rstrip())
        said = "; ".join(text for text in (row.against and f"peer: {row.against}", row.note) if text)
        if said:
            lines.append(f"    {said}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


if __name__ == "__main__":
    run(main)
