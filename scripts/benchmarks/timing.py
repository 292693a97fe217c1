"""What all benchmarks share: one line of the table, interleaved repeats, and the speed limit of this machine."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        group, name: the benchmark, and what is compared in it.
        ours, peer: both in `unit`; None where nothing was measured.
        against: what `peer` is.
        ratio: how many times as fast as the peer we are; 0.5 is half as fast.
        aim: the least ratio wanted, if there is one.
        note: what was checked, or why nothing was measured.
    """

    group: str
    name: str
    ours: float | None = None
    peer: float | None = None
    unit: str = ""
    against: str = ""
    ratio: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the aim is met, in words."""
        if self.ratio is None:
            return "not run" if self.ours is None else "-"
        if self.aim is None:
            return "-"
        return "met" if self.ratio >= self.aim else "MISSED"

    def plain(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Rounds:
    """Seconds of each contestant, `seconds[name][round]`; contestants took turns within each round."""

    seconds: dict[str, list[float]]

    def typical(self, name: str) -> float:
        """The median time of a contestant."""
        return median(self.seconds[name])

    def best(self, *names: str) -> str:
        """The fastest of these contestants."""
        return min(names, key=self.typical)

    def ratio(self, ours: str, peer: str) -> float:
        """How many times as fast as `peer` we are: the median over rounds, so that a machine's slow minute cancels."""
        pairs = zip(self.seconds[ours], self.seconds[peer], strict=True)
        return median(theirs / mine for mine, theirs in pairs)

    def row(
        self,
        group: str,
        name: str,
        ours: str,
        peer: str,
        items: float,
        unit: str,
        aim: float | None = None,
        note: str = "",
    ) -> Row:
        """The row of two contestants that each did `items` pieces of work a round."""
        fast, theirs = items / self.typical(ours), items / self.typical(peer)
        return Row(group, name, fast, theirs, unit, peer, self.ratio(ours, peer), aim, note)


def interleave(contestants: Mapping[str, Callable[[], object]], rounds: int, warm: bool = True) -> Rounds:
    """Time the contestants in turn, `rounds` times; the order alternates. `warm` gives each an untimed turn first.

    Counted are processor seconds of this process: all contestants compute on one thread and wait for nothing, so that
    is the time they take on a quiet machine, and what else runs on a busy one is left out.
    """
    for run in contestants.values() if warm else ():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        for name in names:
            start = time.process_time()
            contestants[name]()
            seconds[name].append(time.process_time() - start)
    return Rounds(seconds)


def product_peak(seconds: float) -> float:
    """Operations a processor second of float32 matrix products: the best seen in `seconds`, over several shapes."""
    best, shapes = 0.0, ((2048, 768, 3072), (2048, 3072, 768), (1536, 1536, 1536))
    for rows, inner, columns in shapes:
        left, right = torch.randn(rows, inner), torch.randn(inner, columns)
        end = time.perf_counter() + seconds / len(shapes)
        while time.perf_counter() < end:
            start = time.process_time()
            torch.mm(left, right)
            best = max(best, 2 * rows * inner * columns / (time.process_time() - start))
    return best


def close(ours: torch.Tensor, peer: torch.Tensor, tolerance: float = 1e-4) -> float:
    """The largest difference, relative to the largest number; raises RuntimeError where it exceeds the tolerance."""
    difference = float(((ours - peer).abs().max() / peer.abs().max().clamp(min=1.0)).detach())
    if not difference <= tolerance:
        raise RuntimeError(f"ours and the peer's results differ by {difference:.2g}: their times mean nothing")
    return difference


@contextmanager
def one_thread() -> Iterator[None]:
    """Everything inside computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def absent(*packages: str) -> str:
    """Which of these packages is missing, in words; '' if none."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install -e '.[test,bench]'" if missing else ""
