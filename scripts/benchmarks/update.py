"""A hard-negative update of UNITER-base's shape through the real command, by its parts, beside the machine's limit."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from config.errors import Failure
from data.batches.pairs import PairIndex
from model.uniter import Config
from scripts.benchmarks.synthetic_stores import Shape, open_pairs, write_stores
from scripts.benchmarks.timing import Row, one_thread, product_peak
from train.metrics.clock import PARTS

GROUP = "hard-negative update"
ROOT = Path(__file__).resolve().parents[2]
UPDATES = 3
SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}


@dataclass(frozen=True)
class Size:
    """Anchors of each rank and direction, and the candidates that are mined and trained on for each."""

    anchors: int
    mined: int
    trained: int

    def __str__(self) -> str:
        return f"{self.anchors} anchors a direction and rank, {self.mined - 1}/{self.trained - 1} negatives"


PUBLISHED = Size(8, 400, 32)
HERE = Size(1, 32, 8)


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """A row for each part, then the whole and what it would be at the published size."""
    config = Config.model_validate(SMALL if quick else {})
    shape = Shape(40, 40)
    stores = write_stores(folder, shape, "native")
    launcher = Path(sys.executable).with_name("horovodrun")
    ranks = 2 if launcher.exists() and len(os.sched_getaffinity(0)) > 1 else 1
    limit = peak(ranks, 0.2 if quick else 2.0)
    parts = train(folder, stores, config, shape, [str(launcher), "-np", str(ranks)] if ranks > 1 else [])
    floor = operations(config, open_pairs(stores, shape), HERE)
    against = f"its operations at the {limit / 1e9:.0f} GFLOP/s of matrix products on a core"
    for name in PARTS:
        least = floor[name] / limit if name in floor else None
        ratio = least and least / parts[name]
        yield Row(GROUP, name, parts[name], least, "s", against if least else "", ratio)
    least, whole = sum(floor.values()) / limit, sum(parts.values())
    note = f"{HERE}; {ranks} ranks of one thread, {sum(floor.values()) / 1e12:.2g} Tflop each"
    note += "" if ranks > 1 else "; no horovodrun or one core, so nothing to reduce"
    yield Row(GROUP, "the whole", whole, least, "s", against, least / whole, None, note)
    yield projection(parts, floor, operations(config, open_pairs(stores, shape), PUBLISHED), limit)


def projection(parts: dict[str, float], floor: dict[str, float], full: dict[str, float], limit: float) -> Row:
    """The published size from the measured parts: arithmetic grows with its operations, reading with the records."""
    grown = {name: parts[name] * full[name] / floor[name] for name in full}
    grown["load"] = parts["load"] * PUBLISHED.anchors * PUBLISHED.mined / (HERE.anchors * HERE.mined)
    grown = {name: grown.get(name, parts[name]) for name in PARTS}
    whole = sum(grown.values())
    shares = ", ".join(f"{name} {seconds:.3g} s ({100 * seconds / whole:.1f} %)" for name, seconds in grown.items())
    bottleneck = max(grown, key=grown.__getitem__)
    note = f"{PUBLISHED}, by counting operations: {shares}; next bottleneck: {bottleneck}"
    least = sum(full.values()) / limit
    against = "its operations at the same rate"
    return Row(GROUP, "projected to the published size", whole, least, "s", against, least / whole, None, note)


def train(
    folder: Path, stores: tuple[Path, Path], config: Config, shape: Shape, launcher: list[str]
) -> dict[str, float]:
    """Seconds of each part of an update on the first rank: medians, without the first update.

    Raises:
        Failure: the training command failed.
    """
    run = {
        "data": {
            "train_txt_dbs": [str(stores[0])],
            "train_img_dbs": [str(stores[1])],
            "n_workers": 1,
            **{name: getattr(shape.rule, name) for name in ("conf_th", "max_bb", "min_bb")},
        },
        "negatives": {"negative_size": HERE.mined - 1, "hard_neg_size": HERE.trained - 1},
        "optim": {"num_train_steps": UPDATES, "warmup_steps": 1, "train_batch_size": HERE.anchors},
        "eval": {"valid_steps": UPDATES},
        "output": {"log_steps": 1, "tensorboard": False, "output_dir": str(folder / "run")},
        "matcher": config.model_dump(),
    }
    path = folder / "run.json"
    path.write_text(json.dumps(run))
    words = [*launcher, sys.executable, str(ROOT / "train" / "itm_hn.py"), "--config", str(path)]
    done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(words)} failed: {done.stderr.strip()[-500:]}")
    events: list[dict[str, Any]] = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    updates = [event for event in events if event["event"] == "train"][1:]
    return {name: median(event[f"{name}_s"] for event in updates) for name in PARTS}


def operations(config: Config, index: PairIndex, size: Size) -> dict[str, float]:
    """What one rank must compute in the mining and the training of an update, multiply and add counted apart.

    Padding is not counted, nor what does not depend on the pair more than once, nor in the last layer anything that
    `[CLS]` does not need; backward costs twice the forward pass.
    """
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    tokens = index.words[None, :] + index.regions[:, None]
    layer = tokens * (8 * width**2 + 4 * width * inner) + 4 * tokens**2 * width
    last = tokens * (4 * width**2 + 4 * width) + 6 * width**2 + 4 * width * inner
    pair = float(np.mean((layers - 1) * layer - 6 * tokens * width**2 + last))
    word, region = 6.0 * width**2, 6.0 * width**2 + 2 * config.img_dim * width
    words, regions = float(index.words.mean()), float(index.regions.mean())

    def both_directions(candidates: int) -> float:
        alone = (1 + candidates) * (word * words + region * regions)
        return size.anchors * (2 * candidates * pair + alone)

    return {"mine": both_directions(size.mined), "train": 3 * both_directions(size.trained)}


def peak(ranks: int, seconds: float) -> float:
    """Operations a second of products on one thread while as many processes as ranks compute them."""
    with ProcessPoolExecutor(ranks, multiprocessing.get_context("spawn")) as pool:
        return min(pool.map(one_thread_peak, [seconds] * ranks))


def one_thread_peak(seconds: float) -> float:
    """The product peak of one thread of this process."""
    with one_thread():
        return product_peak(seconds)
