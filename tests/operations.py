"""Calls of `os` that change files, counted, so that something can happen at each of them: death, an error, a record."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHANGING = ("open", "write", "fsync", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir", "close")
LIVED, KILLED = 0, -signal.SIGKILL
Real = Callable[..., Any]
Change = tuple[str, tuple[Path, ...], bytes]
"""The name of a call, its paths, and what a file holds that it makes."""


@contextmanager
def at_each(act: Callable[[int, str, Real, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """While this lasts, `act(number, name, real, args, named)` stands for each changing call, from number 1 on."""
    count = 0

    def standing_for(name: str, real: Real) -> Real:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            return act(count, name, real, args, named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, standing_for(name, getattr(os, name)))
        yield


def killed_at(number: int, part: float, work: Callable[[], object]) -> int:
    """Do `work` in a forked process that `kill -9` meets at its call `number`; LIVED if it ends before.

    Args:
        part: how much of a write is on its way to the disk already; other calls are not made at all.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def act(count: int, name: str, real: Real, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if count == number:
            if name == "write":
                real(args[0], memoryview(args[1])[: round(part * len(args[1]))])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)

    try:
        with at_each(act):
            work()
    finally:
        os._exit(LIVED)


@contextmanager
def failing_at(number: int, error: int, lasts: bool) -> Iterator[list[str]]:
    """Raise an error at call `number`, and at all that follow if it `lasts`; tells the names of those that failed.

    What is closed or removed meanwhile is so nevertheless: a full disk does not hinder it.
    """
    failed: list[str] = []

    def act(count: int, name: str, real: Real, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        harmless = error == errno.ENOSPC and name in ("close", "unlink", "rmdir")
        if count < number or (count > number and (harmless or not lasts)):
            return real(*args, **named)
        failed.append(name)
        if name == "close":
            real(*args, **named)
        raise OSError(error, os.strerror(error))

    with at_each(act):
        yield failed


@dataclass
class Call:
    """One call that changed a folder: what it did, in which folder, and to which file."""

    name: str
    folder: Path
    paths: tuple[Path, ...]
    file: int = -1
    data: bytes = b""


class Recorder:
    """Records calls, and makes of them what a disk holds after its power was lost."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.names: list[str] = []
        self._opened: dict[int, tuple[Path, int]] = {}
        self._files = 0

    def act(self, _: int, name: str, real: Real, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """To be given to `at_each`."""
        self.names.append(name)
        done = real(*args, **named)
        if name in ("write", "fsync", "close"):
            place, file = self._opened[args[0]]
            data = bytes(memoryview(args[1])[:done]) if name == "write" else b""
            self.calls.append(Call(name, place, (), file, data))
        else:
            base = self._opened[named["dir_fd"]][0] if named.get("dir_fd") is not None else Path()
            paths = (base / args[0], *(Path(path) for path in args[1:2] if name in ("rename", "replace", "symlink")))
            changed = paths[-1] if name == "symlink" else paths[0]
            made = name == "open" and bool(args[1] & os.O_CREAT)
            self._files += made
            if name == "open":
                self._opened[done] = (paths[0], self._files if made else -1)
            if made or name != "open":
                self.calls.append(Call(name, changed.parent, paths, self._files if made else -1))
        return done

    def synced(self, folder: Path, end: int) -> int:
        """How many of the first `end` calls stand before the last one that forced `folder` to disk."""
        forced = (n for n in range(end) if self.calls[n].name == "fsync" and self.calls[n].folder == folder)
        return max(forced, default=0)

    def after_power_loss(self, end: int, lasting: Callable[[Path], int]) -> tuple[Change, ...]:
        """What the first `end` calls have changed on disk: a file holds what it did when it was last forced there.

        Args:
            lasting: how many of the first calls outlast the power that change the names in a folder.
        """
        there = {call.file: b"" for call in self.calls}
        forced = dict(there)
        for call in self.calls[:end]:
            there[call.file] += call.data
            if call.name == "fsync":
                forced[call.file] = there[call.file]
        calls = enumerate(self.calls[:end])
        return tuple((c.name, c.paths, forced[c.file]) for n, c in calls if c.paths and n < lasting(c.folder))


def repeated(changes: tuple[Change, ...], root: Path, copy: Path) -> None:
    """Do in `copy`, which is what `root` was before, what was changed in `root`, where there is a folder for it."""
    for name, paths, content in changes:
        moved = [copy / path.relative_to(root) if path.is_absolute() else path for path in paths]
        if not moved[-1].parent.is_dir():
            continue
        if name == "open":
            moved[0].write_bytes(content)
        elif name == "rmdir":  # with the names that it had, should those be there
            shutil.rmtree(moved[0], ignore_errors=True)
        elif name != "unlink" or os.path.lexists(moved[0]):
            getattr(os, name)(*moved)
