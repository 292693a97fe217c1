"""Processes that read: forked, so that they see the index and the slots of whoever asks."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from config.errors import DataError, Failure
from data.augment import WordAugment
from data.pairs import PairIndex
from data.plan import Plan
from data.slot import Slot


class Worker:
    """A forked process that fills slots."""

    def __init__(self, index: PairIndex, slots: list[Slot], augment: WordAugment | None) -> None:
        self._pipe, theirs = mp.Pipe()
        given = (theirs, index, slots, augment, os.getpid())
        self._process = mp.get_context("fork").Process(target=serve, args=given, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, slot: int, plan: Plan) -> None:
        with self._naming_its_death():
            self._pipe.send((slot, plan))

    def answer(self) -> None:
        """Wait for the oldest question; raises DataError for a bad record or a worker that died."""
        with self._naming_its_death():
            while not self._pipe.poll(1.0):
                if not self._process.is_alive() and not self._pipe.poll(0):
                    raise EOFError
            error = self._pipe.recv()
        if error is not None:
            raise DataError(error)

    @contextmanager
    def _naming_its_death(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as lost:
            self._process.join(1.0)
            raise Failure(f"a reading worker died (exit code {self._process.exitcode}); is memory short?") from lost

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()


def serve(
    pipe: Connection, index: PairIndex, slots: list[Slot], augment: WordAugment | None, parent: int
) -> None:
    """A worker's life: fill the slots it is asked for until the parent closes the pipe or is gone.

    A scheduler signals every process of a job; the parent alone decides what that means.
    """
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(kind, signal.SIG_IGN)
    while os.getppid() == parent:
        if not pipe.poll(2.0):
            continue
        try:
            number, plan = pipe.recv()
        except EOFError:
            return
        try:
            slots[number].fill(index, plan, augment)
        except ValueError as error:
            pipe.send(str(error))
        else:
            pipe.send(None)
