"""Where the time of an update goes, by the host's clock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("load", "mine", "train", "reduce", "update")


class Clock:
    """Sums of seconds by part and of things counted, since they were last read.

    Work on an accelerator runs behind the host; what it costs shows in the part that waits for it.
    """

    def __init__(self) -> None:
        self._spent: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._elapsed, self._since = 0.0, time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time inside to the part `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] += time.perf_counter() - start

    def count(self, name: str, number: int) -> None:
        self._counts[name] += number

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of every rate."""
        self._elapsed += time.perf_counter() - self._since
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def read(self, size: int) -> dict[str, float]:
        """Seconds an update by part, and pairs and anchors a second over all `size` ranks; starts anew."""
        elapsed = self._elapsed + time.perf_counter() - self._since
        updates = max(self._counts["updates"], 1)
        rates = {f"{name}_s": self._spent[name] / updates for name in PARTS}
        rates |= {f"{name}_per_s": self._counts[name] * size / elapsed for name in ("pairs", "anchors")}
        self.__init__()  # type: ignore[misc]
        return rates
