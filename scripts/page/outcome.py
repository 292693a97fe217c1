"""What a run left in its output folder, read and checked for the programs that show or compare runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import ConfigError, DataError
from config.paths import Kind, inspect_path, run_at
from train.evaluation.isda import SHOWN
from train.metrics.journal import METRICS, read_events
from train.scoring.recall import IrCount, MedianRank, Ties
from train.scoring.scores import CANDIDATES, MATRIX, Scores, open_scores

RECALLS = (*(f"{way}_{name}" for way in ("txt", "img") for name in ("r1", "r5", "r10", "r_mean", "medr")),
           "r_mean", "rsum")

STAGES = ("k", "scored", "ceiling", "seconds")  # what an entry of two stages tells of them
RUN = "give a run's output folder"
ISDA = "isda-"  # before the split's name


@dataclass(frozen=True)
class Outcome:
    """An output folder: config.json, the events that count, results.json; empty where a file is absent.

    Attributes:
        results: the entry of each split, with its recalls.
        isda: the entry of each split that ISDa was measured on.
    """

    folder: Path
    config: dict[str, Any]
    events: list[dict[str, Any]]
    results: dict[str, dict[str, Any]]
    isda: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def setting(self, section: str, key: str) -> Any:
        """A value of config.json, or None where it does not say."""
        part = self.config.get(section)
        return part.get(key) if isinstance(part, dict) else None

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind, in order."""
        return [event for event in self.events if event["event"] == kind]

    def scores(self, split: str) -> Scores | None:
        """The score matrix of a split, or None where none was kept; DataError where its files disagree.

        Of an entry of two stages it is that of the candidates, with -inf for all other pairs.
        """
        if split in ("", ".", "..") or "/" in split:
            raise ConfigError(f"--split {split}: is no name of a split; give one, such as test")
        folder = self.folder / "scores" / split
        file = CANDIDATES if self.results.get(split, {}).get("two_stage") else MATRIX
        return open_scores(folder, file) if (folder / file).is_file() else None


def open_outcome(folder: str | Path) -> Outcome:
    """Read an output folder; DataError if it holds neither events nor results, or a file is damaged."""
    folder = run_at(Path(folder))
    metrics, results = folder / METRICS, folder / "results.json"
    if not metrics.is_file() and not results.is_file():
        place = inspect_path(folder)
        what = "" if place.kind is Kind.RUN else f": it {place.clause}"
        raise DataError(f"{folder}: neither {METRICS} nor results.json is here{what}; {place.advice(RUN, Kind.RUN)}")
    config = folder / "config.json"
    entries = _read_json(results) if results.is_file() else {}
    isda = {name.removeprefix(ISDA): entries.pop(name) for name in list(entries) if name.startswith(ISDA)}
    outcome = Outcome(folder, _read_json(config) if config.is_file() else {},
                      read_events(metrics) if metrics.is_file() else [], entries, isda)
    for split, entry in isda.items():
        lacking = [name for name in SHOWN if not isinstance(entry, dict) or name not in entry]
        if lacking:
            raise DataError(f"{results}: the ISDa of {split!r} lacks {lacking[0]}; evaluate again with --isda")
    for split, entry in outcome.results.items():
        found = entry.get("recalls") if isinstance(entry, dict) else None
        lacking = [name for name in RECALLS if name not in found] if isinstance(found, dict) else ["recalls"]
        lacking = lacking or [name for name in STAGES if name not in entry.get("two_stage", STAGES)]
        if lacking:
            raise DataError(f"{results}: split {split!r} lacks {lacking[0]}; evaluate again")
    return outcome


class Counting(NamedTuple):
    """The options by which recalls were counted, in the order of `train.scoring.recall.recalls`."""

    ties: Ties = "pessimistic"
    ir_count: IrCount = "correct"
    folds: int = 1
    median_rank: MedianRank = "exact"


def counting(entry: dict[str, Any]) -> Counting:
    """How the recalls of a results.json entry were counted."""
    return Counting(**{name: entry[name] for name in Counting._fields if name in entry})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{path}: cannot be read; is the output folder whole?") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); evaluate or train again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object; evaluate or train again")
    return content
