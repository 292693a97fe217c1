"""One row a finished run, in a CSV file that any spreadsheet opens: what the run was, and every number it gave."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.errors import DataError
from data.files import replace_atomically
from scripts.command.tables import flatten

Value = float | str

FACTS = ("config", "seed", "hash", "num_train_steps", "ranks", "train_s", "evaluate")
"""The columns before the measured ones."""
JUDGED = ("images", "texts", "folds", "ties", "ir_count", "median_rank")
"""How the recalls of an entry were counted: numbers that differ in one of these do not compare."""
BETWEEN = " | "
PLUS = "+"
"""Between a config and its variant in the name that a row has as its `config`."""


@dataclass(frozen=True)
class Row:
    """A finished run. `evaluations` are the flags of the evaluations that followed its training."""

    config: str
    seed: int
    hash: str
    num_train_steps: int
    ranks: int
    train_s: float
    evaluations: tuple[str, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return self.config, self.seed

    def number(self, measure: str) -> float | None:
        """A measured number or `train_s` (seconds); None where this run has none of that name."""
        value = self.train_s if measure == "train_s" else self.values.get(measure)
        return None if value is None or isinstance(value, str) else value

    def cells(self) -> dict[str, Any]:
        """The row as the CSV file holds it."""
        facts = (*self.key, self.hash, self.num_train_steps, self.ranks, self.train_s, BETWEEN.join(self.evaluations))
        return dict(zip(FACTS, facts, strict=True)) | dict(self.values)


def measured(results: Mapping[str, Any]) -> dict[str, Value]:
    """The numbers of a results.json by slash names (`test/img_r1`, `isda-test/mean`), and how they were counted."""
    values: dict[str, Value] = {}
    for key, value in flatten(results):
        name = key.replace(".recalls.", ".").replace(".", "/")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number or (isinstance(value, str) and name.rpartition("/")[2] in JUDGED):
            values[name] = value
    return values


def train_seconds(events: Iterable[Mapping[str, Any]]) -> float:
    """Seconds of the clock on the wall that a run trained and validated, by the events that count.

    What was lost by a stop and done again, and the starting of programs, are left out: a run that was resumed
    shows what it would have taken in one go.
    """
    total, last = 0.0, None
    for event in events:
        if event["event"] == "start":
            last = event["time"]
        elif event["event"] in ("train", "saved") and last is not None:
            total += event["time"] - last
            last = event["time"]
    return round(total, 3)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where it does not exist.

    Raises:
        DataError: a column is missing, or a value is not what its column holds.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in FACTS if name not in (reader.fieldnames or ())]
        if lacking:
            raise DataError(f"{path}: has no column {lacking[0]!r}; name the output folder of an ablation")
        return [_row(cells, f"{path}:{reader.line_num}") for cells in reader]


def _row(cells: Mapping[str, str], where: str) -> Row:
    try:
        evaluations = tuple(cells["evaluate"].split(BETWEEN)) if cells["evaluate"] else ()
        values = {name: _value(name, text) for name, text in cells.items() if name not in FACTS and text}
        return Row(cells["config"], int(cells["seed"]), cells["hash"], int(cells["num_train_steps"]),
                   int(cells["ranks"]), float(cells["train_s"]), evaluations, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not a row of an ablation ({error}); mend or delete this line") from None


def _value(name: str, text: str) -> Value:
    return text if name.rpartition("/")[2] in ("ties", "ir_count", "median_rank") else float(text)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows so that the file is there whole or not at all; a column for everything that any row has."""
    columns = dict.fromkeys([*FACTS, *(name for row in rows for name in row.values)])
    with replace_atomically(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.cells() for row in rows)
