"""The asynchronous saver: a thread writes checkpoints while training goes on."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.snapshot import Snapshot


class Saved(NamedTuple):
    """A checkpoint that is on disk, and how long it took to write."""

    step: int
    path: Path
    seconds: float


class AsyncSaver:
    """Writes one checkpoint at a time; a failed one is told at the next call, and at the end of a `with` block."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._thread = ThreadPoolExecutor(1, "saver")
        self._writing: Future[Saved] | None = None
        self._saved: list[Saved] = []

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a checkpoint, after the one before is on disk (see `Checkpoints.write`).

        Raises:
            Failure: the one before could not be written; this one is not begun.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Return when everything is on disk.

        Raises:
            Failure: it could not be written.
        """
        if self._writing is not None:
            wait([self._writing])
            writing, self._writing = self._writing, None
            self._saved.append(writing.result())

    def writes(self) -> bool:
        """Whether something is still on its way to the disk; any thread may ask."""
        writing = self._writing
        return writing is not None and not writing.done()

    def done(self) -> list[Saved]:
        """What came to be on disk since this was last asked; does not wait.

        Raises:
            Failure: it could not be written.
        """
        if self._writing is not None and self._writing.done():
            self.wait()
        saved, self._saved = self._saved, []
        return saved

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; its failure is a note on an error that is on its way already."""
        self._thread.shutdown()
        failed = self._writing.exception() if self._writing is not None else None
        if error is None:
            self.wait()
        elif failed is not None:
            error.add_note(str(failed))

    def _write(self, snapshot: Snapshot) -> Saved:
        began = time.perf_counter()
        path = self.checkpoints.write(snapshot)
        return Saved(snapshot.step, path, time.perf_counter() - began)
