"""A run on one page: what it reached, what was checked, how training went, and what it finds.

    python scripts/report.py OUTPUT_DIR [--pictures PLACE] [--captions FILE] [--examples 3]

writes OUTPUT_DIR/report.html, one file that needs no network: curves are inline SVG, pictures inline JPEGs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.command.program import Parser, naming_runs, run
from scripts.gallery import Gallery, add_source_flags, make_gallery
from scripts.page.charts import Chart
from scripts.page.checks import Check, check_run, check_split
from scripts.page.measures import found_within, other_charts, score_histogram, training_charts
from scripts.page.outcome import Outcome, counting, open_outcome
from scripts.page.render import write_page
from train.evaluation.isda import format_line
from train.evaluation.results import format_two_stage as stages
from train.scoring.recall import TOP, chance

WAYS = (("txt", "image → text"), ("img", "text → image"))


@dataclass(frozen=True)
class Way:
    """One direction of a recall table; rows: (k, recall, recall by chance or None), fractions."""

    name: str
    rows: list[tuple[int, float, float | None]]
    mean: float
    median_rank: float
    mean_rank: float | None


@dataclass(frozen=True)
class Split:
    """What the page tells of one evaluated split."""

    name: str
    recalls: dict[str, float]
    ways: list[Way]
    facts: list[str]
    checks: list[Check]
    charts: list[Chart]
    gallery: Gallery | None


def tell_split(outcome: Outcome, name: str, args: argparse.Namespace) -> Split:
    """The recalls of a split, and what its score matrix shows where one was kept."""
    entry, scores = outcome.results[name], outcome.scores(name)
    ties, ir_count, folds, median_rank = counting(entry)
    by_chance = chance(scores.owner, len(scores.images), folds) if scores else {}
    charts, gallery = [], None
    if scores is not None:
        charts = [found_within(scores, ties), score_histogram(scores)]
        gallery = make_gallery(outcome, name, scores, args.pictures, args.captions, args.examples)
    facts = [f"{entry[key]:,} {key}" for key in ("images", "texts") if key in entry]
    facts += [f"{ties} ties", *([f"mean of {folds} folds"] if folds > 1 else [])]
    facts += ["legacy count of image retrieval"] if ir_count == "legacy" else []
    facts += ["median ranks rounded down"] if median_rank == "floor" else []
    facts += _origin(entry)
    facts += [stages(entry["two_stage"]).strip()] if "two_stage" in entry else []
    if "whole" in entry:
        whole = entry["whole"]
        firsts = ", ".join(f"{long} R@1 {100 * whole[f'{short}_r1']:.1f} %" for short, long in WAYS)
        facts.append(f"all images at once: rsum {whole['rsum']:.1f}, {firsts}")
    ways = [_way(short, long, entry["recalls"], by_chance) for short, long in WAYS]
    return Split(name, entry["recalls"], ways, facts, check_split(name, entry, scores), charts, gallery)


def settings(outcome: Outcome) -> list[tuple[str, str]]:
    """The settings that tell most about a run, as (name, value) for people; only those config.json has."""
    wanted = (("matcher", "name", "matcher"), ("objective", "name", "objective"),
              ("optim", "learning_rate", "learning rate"), ("optim", "num_train_steps", "steps"),
              ("optim", "train_batch_size", "anchors per rank and direction"),
              ("negatives", "negative_size", "negatives scored"),
              ("negatives", "hard_neg_size", "negatives trained"),
              ("optim", "precision", "precision"), ("data", "train_txt_dbs", "training texts"),
              ("data", "train_img_dbs", "training images"), ("weights", "checkpoint", "started from"))
    told = [(label, outcome.setting(section, key)) for section, key, label in wanted]
    told.append(("seed", outcome.config.get("seed")))
    return [(label, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            for label, value in told if value not in (None, "", [])]


def facts(outcome: Outcome) -> list[str]:
    """One line about the run: system, when, how long, on how many processes."""
    told = [str(name) for section in ("matcher", "objective") if (name := outcome.setting(section, "name"))]
    times = [event["time"] for event in outcome.events if "time" in event]
    if times:
        told.append(time.strftime("%-d %B %Y, %H:%M", time.localtime(times[0])))
        told.append(f"{timedelta(seconds=round(times[-1] - times[0]))} from first to last event")
    for start in outcome.of("start")[-1:]:
        told += [f"{start['world']} processes"] if start.get("world", 1) > 1 else []
        told += [f"{start['parameters']:,} parameters"] if start.get("parameters") else []
    return told


def write_report(args: argparse.Namespace) -> Path:
    """Read the output folder, check it, and write its page; DataError as the readers raise it."""
    outcome = open_outcome(args.output_dir)
    return write_page(
        outcome.folder / "report.html",
        "report.html.j2",
        outcome=outcome,
        facts=facts(outcome),
        settings=settings(outcome),
        config=json.dumps(outcome.config, indent=2, ensure_ascii=False),
        splits=[tell_split(outcome, name, args) for name in outcome.results],
        checks=check_run(outcome),
        isda=[
            f"{split}, {Path(entry['checkpoint']).name}: {format_line(entry)}" for split, entry in outcome.isda.items()
        ],
        charts=training_charts(outcome),
        others=other_charts(outcome),
        written=time.strftime("%-d %B %Y, %H:%M"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUTPUT_DIR/report.html and say where it is."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add_source_flags(parser, examples=3)
    args = parser.parse_args(naming_runs(argv))
    print(write_report(args))
    return 0


def _way(short: str, long: str, recalls: dict[str, float], by_chance: dict[str, float]) -> Way:
    rows = [(top, recalls[f"{short}_r{top}"], by_chance.get(f"{short}_r{top}")) for top in TOP]
    return Way(long, rows, recalls[f"{short}_r_mean"], recalls[f"{short}_medr"], recalls.get(f"{short}_meanr"))


def _origin(entry: dict[str, Any]) -> list[str]:
    """What was measured: a checkpoint, a kept score matrix, or the mean of several."""
    if entry.get("ensemble"):
        return [f"ensemble: the mean scores of {', '.join(entry['ensemble'])}"]
    if entry.get("scores"):
        return [f"counted from {entry['scores']}"]
    return [f"checkpoint {entry['checkpoint']}"] if entry.get("checkpoint") else []


if __name__ == "__main__":
    run(main)
