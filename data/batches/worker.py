"""Reading processes, forked so that they share the index and the buffers of their parent."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from config.errors import DataError, Failure
from data.batches.augment import WordAugment
from data.batches.pairs import PairIndex
from data.batches.plan import Plan
from data.batches.prefetch_buffer import PrefetchBuffer

BEGIN_S = (2.0, 5.0, 20.0, 40.0)
"""How long each of the workers that are tried one after the other may take to begin, which is a matter of moments."""


class Worker:
    """A forked process that fills slots; `begin` waits for it.

    A fork copies locks as they are, also one that another thread holds, and in the copy nobody lets go of it. Python
    before 3.11.10 takes such a lock on its way from the fork to the first line, and Horovod's thread does whenever it
    drops a tensor: now and then, on a busy host, a fork stands there for ever.
    """

    def __init__(self, index: PairIndex, slots: list[PrefetchBuffer], augment: WordAugment | None) -> None:
        self._given = index, slots, augment, os.getpid()
        self._fork()

    def _fork(self) -> None:
        ours, theirs = mp.Pipe()
        process = mp.get_context("fork").Process(target=serve, args=(theirs, *self._given), daemon=True)
        try:
            process.start()
        except OSError as error:
            ours.close()
            raise Failure(f"a reading worker could not be started ({error.strerror}); is memory short?") from error
        finally:
            theirs.close()
        self._pipe, self._process = ours, process

    def begin(self) -> None:
        """Return once it reads; one that stands is replaced.

        Raises:
            Failure: it died, or none of several began or could be started.
        """
        for number, patience_s in enumerate(BEGIN_S):
            if number:
                self.close()
                self._fork()
            with self._naming_its_death():
                if self._pipe.poll(patience_s):
                    self._pipe.recv()
                    return
        raise Failure(f"{len(BEGIN_S)} reading workers, one after the other, did not begin; is this host overloaded? "
                      "--n_workers 0 reads without them")

    def ask(self, slot: int, plan: Plan) -> None:
        with self._naming_its_death():
            self._pipe.send((slot, plan))

    def answer(self) -> None:
        """Wait for the oldest question.

        Raises:
            DataError: a bad record.
            Failure: the worker died.
        """
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


def kill_all() -> None:
    """End all workers of this process, which is about to end without unwinding: one that stands would outlive it."""
    for process in mp.active_children():
        process.kill()


def serve(
    pipe: Connection, index: PairIndex, slots: list[PrefetchBuffer], augment: WordAugment | None, parent: int
) -> None:
    """A worker's life: fill the slots it is asked for until it is killed or the parent is gone.

    A scheduler signals every process of a job; the parent alone decides what that means.
    """
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(kind, signal.SIG_IGN)
    pipe.send(None)
    while os.getppid() == parent:
        if not pipe.poll(2.0):
            continue
        number, plan = pipe.recv()
        try:
            slots[number].fill(index, plan, augment)
        except ValueError as error:
            pipe.send(str(error))
        else:
            pipe.send(None)
