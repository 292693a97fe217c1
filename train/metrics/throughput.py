"""Throughput and time shares of all ranks: numbers for the journal, words for people.

By the host's clock of each rank, between two lines of the log and without validation and saving, or from the begin of
an evaluation or of mining to its end, this is:

    load       waiting for the next batch, which workers may have read ahead at no cost; in evaluation and mining,
               reading and decoding images and texts
    comm       standing in collectives, which is waiting for slower ranks as well as sending. Gradients are averaged
               behind backward: of them counts what is still to be waited for once backward is done
    compute    all else: forward, backward, the optimizer, mining, the host's own bookkeeping
    busy       load and compute, which is all time but comm
    straggler  (the longest busy time of a rank - the mean) / elapsed time: the share of their time that ranks lose
               to the one that holds them up most over the whole stretch, who is `slowest`. Where ranks are slow in
               turns, they lose more than that; it shows as comm

Accelerators run behind their host. What a host waits for there is compute, except in a collective: `Trainer` waits for
its device before it waits for the gradients of others, but statistics and rows that ranks exchange inside forward and
backward count as comm with all that their device had still to do before them. Libraries that reduce on the CPU take
cores from compute, which then looks slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from train.distributed.comm import Comm
from train.metrics.clock import PARTS, Clock, Lap
from train.metrics.journal import Journal

Rates = dict[str, Any]

TRAINED = ("pairs", "anchors")
SCORED = ("images", "texts", "pairs")
"""What evaluation and mining count: images and texts encoded (by each rank for itself), pairs scored."""
SHARES = {"load_share": "data", "comm_share": "comm", "straggler": "straggler"}
"""Of the elapsed time, over all ranks; and what they are called in the talk."""
CLOCKED = frozenset(
    {"time", "elapsed_s", *(f"{part}_s" for part in PARTS), *(f"{name}_per_s" for name in (*TRAINED, *SCORED)),
     *SHARES, "slowest", "ranks"}
)  # fmt: skip
"""The names in events of what no two runs have alike."""


def measure_ranks(clock: Clock, comm: Comm) -> Rates:
    """The rates of the updates since the last lap, for a "train" event; starts a lap; to be called by all ranks.

    Returns:
        `{part}_s`: seconds an update of this rank by `PARTS`; and see `combine_ranks`, by the update.
    """
    lap = clock.lap()
    updates = max(lap.counts.get("updates", 0), 1)
    own = {f"{part}_s": _short(lap.spent.get(part, 0) / updates) for part in PARTS}
    return own | combine_ranks(lap, comm, TRAINED, updates)


def combine_ranks(lap: Lap, comm: Comm, counted: Sequence[str], parts: int = 1) -> Rates:
    """What all ranks did in their laps; to be called by all of them.

    Args:
        counted: the names of what was counted.
        parts: what seconds are divided by.

    Returns:
        `{name}_per_s` of all ranks together for each of `counted`; `SHARES`, the mean over ranks; `slowest`, the rank;
        and in `ranks` lists with a number for each rank: `{name}_per_s`, `load_s`, `compute_s`, `comm_s`, and on an
        accelerator `memory_gib`, the most that tensors ever took there.
    """
    own = [lap.elapsed_s, lap.spent.get("load", 0), lap.waited_s, _peak_gib()]
    own += [lap.counts.get(name, 0) for name in counted]
    table = comm.gather(torch.tensor([own], dtype=torch.float64), "rates")
    elapsed, load, waited, memory, *counts = table.unbind(1)
    elapsed = elapsed.clamp(min=1e-9)
    busy = elapsed - waited
    each = {f"{name}_per_s": count / elapsed for name, count in zip(counted, counts, strict=True)}
    seconds = {"load_s": load, "compute_s": (busy - load).clamp(min=0), "comm_s": waited}
    ranks = each | {name: value / parts for name, value in seconds.items()}
    if memory.any():
        ranks["memory_gib"] = memory
    shares = load.mean(), waited.mean(), busy.max() - busy.mean()
    rates: Rates = {name: _short(float(rate.sum())) for name, rate in each.items()}
    rates |= {name: _short(float(share / elapsed.mean())) for name, share in zip(SHARES, shares, strict=True)}
    told = {name: [_short(one) for one in value.tolist()] for name, value in ranks.items()}
    return rates | {"slowest": int(busy.argmax()), "ranks": told}


def summary(rates: Mapping[str, Any]) -> str:
    """Such as "data 3 %  comm 12 %  straggler 1 % (rank 3)"; what is only for many ranks is left out for one."""
    ranks = rates["ranks"]
    told = {words: f"{100 * rates[name]:.0f} %" for name, words in SHARES.items()}
    if told["straggler"] != "0 %":
        told["straggler"] += f" (rank {rates['slowest']})"
    if len(ranks["load_s"]) == 1:
        told = {"data": told["data"]}
    if "memory_gib" in ranks:
        told["memory"] = f"{max(ranks['memory_gib']):.3g} GiB"
    return "  ".join(f"{name} {value}" for name, value in told.items())


@contextmanager
def report_throughput(kind: str, name: str, clock: Clock, comm: Comm, journal: Journal) -> Iterator[None]:
    """Tell what the work inside took, as an event `kind` of `name` and in a line; to be entered by all ranks.

    Nothing is told of work that fails.
    """
    clock.lap()  # what was before is no part of it
    yield
    lap = clock.lap()
    rates: Rates = {"elapsed_s": _short(lap.elapsed_s)} | combine_ranks(lap, comm, SCORED)
    journal.event(kind, name=name, **rates)
    paces = {counted: rates[f"{counted}_per_s"] for counted in SCORED}
    journal.say("  ".join([f"{name}: took {rates['elapsed_s']:.4g} s", *_told(paces), summary(rates)]))


def describe_pace(lap: Lap) -> str:
    """In the middle of work, of this rank alone: such as "images/s 12  pairs/s 3400  data 5 %"."""
    elapsed = max(lap.elapsed_s, 1e-9)
    paces = {counted: lap.counts.get(counted, 0) / elapsed for counted in SCORED}
    return "  ".join([*_told(paces), f"data {100 * lap.spent.get('load', 0) / elapsed:.0f} %"])


def _told(paces: Mapping[str, float]) -> list[str]:
    return [f"{counted}/s {pace:.4g}" for counted, pace in paces.items() if pace]


def _peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_initialized() else 0.0


def _short(value: float) -> float:
    """With four digits: there are as many of these as ranks, in each line of the log."""
    return float(f"{value:.4g}")
