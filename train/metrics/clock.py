"""The time of an update by its parts, on the host's clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import torch

from train.distributed.progress import Progress

PARTS = ("load", "mine", "train", "reduce", "update")


@dataclass
class Lap:
    """What this rank did in a stretch of time.

    Attributes:
        elapsed_s: how long it was, without pauses.
        waited_s: how much of it this rank stood in collectives.
        spent: seconds by part, of those that were entered.
        counts: things that were counted, such as updates.
    """

    elapsed_s: float = 0.0
    waited_s: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Clock:
    """Sums of seconds by part and of things counted, since the last lap was taken.

    Work on an accelerator runs behind the host; what it costs shows in the part that waits for it (see `catch_up`).

    Args:
        progress: who knows how long this rank has stood in collectives; without it, it never does. Whatever is counted,
            and each part that ends, is a sign to it that the work goes on.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Progress()
        self._lock, self._sharing = Lock(), 1
        self._lap = Lap()
        self._since: float | None = None
        self._start()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time inside to the part `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - start) / self._sharing
            with self._lock:
                self._lap.spent[name] = self._lap.spent.get(name, 0.0) + spent
            self._progress.advance()

    def count(self, name: str, number: int) -> None:
        """Add `number` of what is called `name`."""
        with self._lock:
            self._lap.counts[name] = self._lap.counts.get(name, 0) + number
        self._progress.advance()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of every rate, and what is waited in it."""
        ran = self._stop()
        try:
            yield
        finally:
            if ran:
                self._start()

    @contextmanager
    def shared_by(self, threads: int) -> Iterator[None]:
        """Inside, so many threads do the same side by side, so that the parts of each are that share of the time."""
        before, self._sharing = self._sharing, threads
        try:
            yield
        finally:
            self._sharing = before

    def so_far(self) -> Lap:
        """What has been since the last lap; it goes on."""
        if self._stop():
            self._start()
        return self._lap

    def lap(self) -> Lap:
        """What has been since the last lap; starts anew."""
        done, self._lap = self.so_far(), Lap()
        return done

    def _start(self) -> None:
        self._since, self._waited = time.perf_counter(), self._progress.waited_s

    def _stop(self) -> bool:
        """Add what has run; returns whether it ran."""
        if self._since is None:
            return False
        self._lap.elapsed_s += time.perf_counter() - self._since
        self._lap.waited_s += self._progress.waited_s - self._waited
        self._since = None
        return True


def catch_up(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given, so that this does not pass for waiting for other ranks.

    To be called where the host is about to wait for the device in any case. Does nothing on a CPU.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
