"""Stop requests, by a signal or a time limit: the ranks agree and leave the loop together."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from config.errors import INTERRUPTED, REQUEUE
from train.distributed.comm import Comm, Wait

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGINT)
"""SIGALRM is this process's own: the time that it was given is over (see `train.distributed.deadline`)."""


class StopRequest:
    """Lets an update end before a signal is obeyed, and obeys at once where what is on disk is whole.

    Args:
        settle: called before the process ends at once; finishes what another thread still writes.

    Attributes:
        by: the signal that all ranks have agreed to obey; None while they go on.
        regroup: all ranks have agreed that some come or go (see `Comm.changed`).
    """

    def __init__(self, comm: Comm, settle: Callable[[], object]) -> None:
        self._comm, self._settle = comm, settle
        self._told: int | None = None
        self._resting = False
        self._answers: dict[int, Any] = {}
        self.by: int | None = None
        self.regroup = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, signals become requests; a second SIGINT interrupts as usual."""
        self._answers = {kind: signal.signal(kind, self._hear) for kind in SIGNALS}
        try:
            yield
        finally:
            for kind, answer in self._answers.items():
                signal.signal(kind, answer)
        if self.pending:  # told after the last question, when everything was saved
            signal.raise_signal(self.pending)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, nothing is lost that is not on disk or on its way there: a signal is obeyed at once."""
        self._resting = True
        try:
            if self._told is not None:
                self._answer(self._told, None)
            yield
        finally:
            self._resting = False

    def agree_async(self) -> Wait:
        """Ask all ranks whether one was told to stop; they all know once the returned call is made.

        A signal that arrives after the question waits for the next one.
        """
        told = torch.tensor([float(self._told or 0), float(self._comm.changed)])
        wait = self._comm.mean_async_(told, "stop")

        def heard() -> None:
            wait()
            if told[0]:
                self.by = self._told or signal.SIGTERM
            self.regroup = bool(told[1]) and self.by is None

        return heard

    @property
    def pending(self) -> int:
        """The signal that was heard and not yet obeyed; 0 for none."""
        return 0 if self.by is not None else self._told or 0

    @property
    def code(self) -> int:
        """The exit code that fits `by`; 0 while nobody was told."""
        return 0 if self.by is None else exit_code_of_signal(self.by)

    @property
    def reason(self) -> str:
        """Why all stop, in words."""
        return "the time limit" if self.by == signal.SIGALRM else signal.Signals(self.by or 0).name

    def request(self, number: int) -> None:
        """Request a stop by signal `number`; this rank asks the others when the update is done."""
        self._told = number

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.request(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._resting:
            self._answer(number, frame)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        self._told = None
        self._settle()
        answer = self._answers[number]
        if not callable(answer):
            raise SystemExit(exit_code_of_signal(number))
        answer(number, frame)


def exit_code_of_signal(number: int) -> int:
    """The exit code of a process that has saved and left because of this signal."""
    return INTERRUPTED if number == signal.SIGINT else REQUEUE
