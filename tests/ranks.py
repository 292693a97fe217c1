"""Ranks that are threads of one process, for what takes no real ones: arithmetic, and who waits for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import TypeVar

import torch
from torch import Tensor

from train.distributed.comm import Comm, Wait

T = TypeVar("T")
PATIENCE_S = 60.0


class Meeting:
    """Where ranks put what they send, by name, and wait for what the others send under the same name."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed, self._broken = Condition(), False
        self._sent: dict[tuple[str, int], dict[int, Tensor]] = {}

    def put(self, name: str, turn: int, rank: int, value: Tensor) -> None:
        with self._changed:
            self._sent.setdefault((name, turn), {})[rank] = value.detach().clone()
            self._changed.notify_all()

    def all_of(self, name: str, turn: int) -> list[Tensor]:
        """What all ranks sent, in their order; an error where one never does."""
        with self._changed:
            sent = self._sent[name, turn]
            there = self._changed.wait_for(lambda: self._broken or len(sent) == self.size, PATIENCE_S)
            if not there or len(sent) < self.size:
                raise AssertionError(f"{name}: not every rank came")
            return [sent[rank] for rank in range(self.size)]

    def leave(self) -> None:
        """Whoever waits has waited in vain."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()


class ThreadRank(Comm):
    """One of several ranks in this process."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.rank, self.size, self._meeting = rank, meeting.size, meeting
        self._turns: Counter[str] = Counter()

    def _put(self, tensor: Tensor, name: str) -> tuple[str, int]:
        self._turns[name] += 1
        self._meeting.put(name, self._turns[name], self.rank, tensor)
        return name, self._turns[name]

    def _mean_async_(self, tensor: Tensor, name: str) -> Wait:
        ticket = self._put(tensor, name)
        return lambda: tensor.copy_(torch.stack(self._meeting.all_of(*ticket)).mean(0))  # type: ignore[return-value]

    def _gather(self, tensor: Tensor, name: str) -> Tensor:
        return torch.cat(self._meeting.all_of(*self._put(tensor, name)))

    def _broadcast_(self, tensor: Tensor, name: str, root: int) -> None:
        tensor.copy_(self._meeting.all_of(*self._put(tensor, name))[root])

    def means_lost_rank(self, error: BaseException) -> bool:
        return False

    def close(self) -> None:
        self._meeting.leave()


def on_ranks(size: int, work: Callable[[Comm], T]) -> list[T]:
    """What `work` gives on each of `size` ranks."""
    meeting = Meeting(size)

    def done(rank: int) -> T:
        try:
            return work(ThreadRank(meeting, rank))
        except BaseException:
            meeting.leave()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(done, rank) for rank in range(size)]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    if errors:
        raise next((error for error in errors if "not every rank came" not in str(error)), errors[0])
    return [future.result() for future in futures]
