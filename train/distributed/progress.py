"""The progress of a rank: its step, the collective that it is in, and its time in collectives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Heartbeat:
    """The progress of a rank at one moment, as it is sent to others.

    advances: a number that grows whenever the work goes on.
    sent: the kind of what this rank gave to the collective; "" where ranks may give different ones.
    """

    step: int = 0
    collective: str = ""
    advances: int = 0
    sent: str = ""

    def __str__(self) -> str:
        return f"step {self.step} " + (f"in {self.collective}" if self.collective else "outside of collectives")


class Progress:
    """What one rank last did, written by whoever works and read by the thread that watches.

    step: the update that is being made.
    collective: the name of the one that this rank stands in, or that failed under it; "" where it computes.
    waited_s: seconds spent in collectives since the process began.
    writes: tells whether a thread still writes what should be whole before this process ends.
    """

    def __init__(self) -> None:
        self.writes: Callable[[], bool] = lambda: False
        self.step, self.collective = 0, ""
        self.waited_s = 0.0
        self._advances = 0
        self._sent: Tensor | None = None

    def begin_step(self, step: int) -> None:
        """The update `step` begins."""
        self.step = step
        self._advances += 1

    def advance(self) -> None:
        """A part of some long work without collectives is done."""
        self._advances += 1

    def advance_over(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, each asked for once the one before is done with."""
        for item in items:
            yield item
            self._advances += 1

    @contextmanager
    def in_collective(self, name: str, alike: Tensor | None = None) -> Iterator[None]:
        """Inside, this rank waits for the others in the collective `name`; the name stays where it fails.

        alike: what it gives, where all ranks must give the same kind.
        """
        self.collective, self._sent = name, alike
        self._advances += 1
        start = time.perf_counter()
        try:
            yield
            self.collective, self._sent = "", None
        finally:
            self.waited_s += time.perf_counter() - start
            self._advances += 1

    def heartbeat(self) -> Heartbeat:
        """A copy, for another thread or rank."""
        sent = self._sent
        kind = "" if sent is None else f"{list(sent.shape)} {str(sent.dtype).removeprefix('torch.')}"
        return Heartbeat(self.step, self.collective, self._advances, kind)
