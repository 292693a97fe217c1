"""Updates measured on 1, 2 and 4 local ranks, with and without talking."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import Failure
from data.files import read_json, write_json
from scripts.command.parallel import cores, one_thread_each
from scripts.scaling_model.counting import Sent
from scripts.scaling_model.fitting import Point, Traffic
from scripts.scaling_model.workloads import Workload, lifelike_stores, small_uniter, small_vsrn

IMG_DIM, VOCAB = 64, 4000
QUIET = 0.05
"""Share of the machine that others may take in a turn that counts in any case."""
PROGRAM = Path(__file__).with_name("rank.py")


@dataclass(frozen=True)
class Plan:
    """What is measured: `turns` of `length` updates that talk, each between two that do not.

    `patience_s` are spent waiting for quiet moments, at most, for each number of ranks.
    """

    ranks: tuple[int, ...]
    loads: tuple[Workload, ...]
    turns: int
    length: int
    patience_s: float


def plan(quick: bool, patience_s: float) -> Plan:
    """Messages and work of several sizes; in miniature the numbers mean nothing."""
    if quick:
        loads = [small_uniter(16, items, VOCAB, IMG_DIM) for items in (1, 2, 3)]
        loads += [small_vsrn(16, items, VOCAB, IMG_DIM) for items in (2, 4, 6)]
        return Plan((1, 2), tuple(loads), 1, 2, 0.0)
    loads = [small_uniter(*size, VOCAB, IMG_DIM) for size in ((64, 1), (64, 4), (256, 1), (512, 1))]
    loads += [small_vsrn(*size, VOCAB, IMG_DIM) for size in ((64, 8), (128, 16), (256, 4), (512, 4))]
    return Plan((1, 2, 4), tuple(loads), 10, 3, patience_s)


def measure(wanted: Plan, folder: Path) -> tuple[list[Point], float]:
    """Points of all workloads on all numbers of ranks; and the largest share of the machine that others took.

    Raises:
        Failure: horovodrun is missing, or a rank failed.
    """
    most = max(wanted.ranks) * max(load.items for load in wanted.loads)
    stores = lifelike_stores(folder / "stores", IMG_DIM, VOCAB, 2 * most)
    points, shares = list[Point](), list[float]()
    for ranks in wanted.ranks:
        found = on_ranks(ranks, wanted, stores, folder)
        for load in wanted.loads:
            point, share = summary(load, [rank[load.name] for rank in found])
            points.append(point)
            shares.append(share)
    return points, max(shares)


def on_ranks(ranks: int, wanted: Plan, stores: tuple[Path, Path], folder: Path) -> list[dict[str, Any]]:
    """What each of so many local ranks found."""
    place = folder / f"{ranks}"
    place.mkdir()
    loads = [load.plain() for load in wanted.loads]
    task = {"stores": list(map(str, stores)), "workloads": loads} | {
        name: getattr(wanted, name) for name in ("turns", "length", "patience_s")
    }
    write_json(place / "task.json", task)
    launcher = Path(sys.executable).with_name("horovodrun")
    if not launcher.exists():
        raise Failure(f"no {launcher}: updates of several ranks are measured with Horovod; run `make setup`")
    words = [*([str(launcher), "-np", str(ranks)] if ranks > 1 else []), sys.executable, str(PROGRAM), str(place)]
    with one_thread_each():
        done = subprocess.run(words, env=os.environ.copy(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(words)} failed: {done.stderr.strip()[-500:]}")
    return [read_json(place / f"rank{rank}.json") for rank in range(ranks)]


def summary(load: Workload, found: Sequence[dict[str, Any]]) -> tuple[Point, float]:
    """The point of a workload from what every rank found.

    The machine's own speed drifts, so a turn that talks is compared with the two beside it that do not. What else runs
    on it makes all slower: the quiet turns count, at least the quieter half. The share is that which others took of the
    machine meanwhile.
    """
    turns = np.median(np.array([rank["seconds"] for rank in found]).mean(0), axis=1)
    shares = others(np.array([rank["stock"] for rank in found]))
    beside = (turns[:-1:2] + turns[2::2]) / 2
    taken = np.max([shares[:-1:2], shares[1::2], shares[2::2]], axis=0)
    kept = taken <= max(QUIET, float(np.median(taken)))
    silent = float(np.median(beside[kept]))
    talking = silent * float(np.median((turns[1::2] / beside)[kept]))
    sent = [Sent(**one) for one in found[0]["sent"]]
    ranks = len(found)
    name = f"{load.name}, {ranks} rank{'s' if ranks > 1 else ''}"
    return Point(name, talking, silent, Traffic.of(sent, ranks)), float(taken[kept].mean())


def others(stock: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[turns]` shares of the machine that none of the ranks took, from `stock [ranks, 2 x turns, 3]`."""
    wall, own, busy = np.diff(stock, axis=1)[:, ::2].transpose(2, 0, 1)
    return np.clip(busy.mean(0) - own.sum(0), 0, None) / (wall.mean(0) * cores())
