"""Programs that the tests start, watch and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support import ROOT, command, environment


def torchrun(*words: str | Path, ranks: int) -> list[str]:
    """`python words...` under torch.distributed's launcher."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
            *map(str, words)]


@contextmanager
def started(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running program whose talk goes to `log`; it and its children are gone afterwards.

    Where a test gives up, the error tells the end of the log, and where all of them were.
    """
    with log.open("wb") as file:
        variables = environment() | {"PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(words, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT)
        family: list[psutil.Process] = []
        try:
            yield process
        except Exception as error:
            family = family_of(process)
            make_tell_stacks(family)
            error.add_note(log.read_text(errors="replace")[-40000:])
            raise
        finally:
            for member in [*family, *family_of(process)]:
                with_patience(member.kill)
            process.wait(30)


def family_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A program and all that it has started; nobody once it has ended."""
    if process.poll() is not None:
        return []
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]


def make_tell_stacks(family: list[psutil.Process]) -> None:
    """End those who run a script by a signal at which Python writes the stacks of all threads; launchers hand them on.
    """
    for member in family:
        script = next((word for word in words_of(member)[1:3] if word.endswith(".py")), "launch.py")
        if not script.endswith("launch.py"):
            with_patience(lambda member=member: member.rlimit(psutil.RLIMIT_CORE, (0, 0)))  # type: ignore[misc]
            with_patience(lambda member=member: member.send_signal(signal.SIGABRT))  # type: ignore[misc]
    time.sleep(3)


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; empty once it is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def with_patience(act: Callable[[], object]) -> None:
    """Do something to a process that may be gone already."""
    try:
        act()
    except psutil.NoSuchProcess:
        return


def entry(*words: str | Path, ranks: int = 1, launcher: str = "horovodrun") -> list[str]:
    """The command of an entry on so many ranks."""
    return torchrun(*words, ranks=ranks) if launcher == "torchrun" and ranks > 1 else command(*words, ranks=ranks)


def wait_until(holds: Callable[[], bool], patience_s: float = 120.0) -> None:
    """Return once `holds()`; an error after `patience_s`."""
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def steps_logged(folder: Path) -> int:
    """Train events that a run has written so far."""
    path = folder / "metrics.jsonl"
    return path.read_text().count('"event": "train"') if path.exists() else 0


def rank_of(process: psutil.Process) -> int | None:
    """The rank of a process that runs an entry, else None."""
    try:
        words, variables = process.cmdline(), process.environ()
    except psutil.Error:
        return None
    if not any(word.endswith("itm_hn.py") for word in words[1:3]) or "python" not in os.path.basename(words[0]):
        return None
    rank = variables.get("HOROVOD_RANK", variables.get("RANK"))
    return None if rank is None else int(rank)


def ranks_below(process: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """The ranks that a launcher has started; a rank's reading workers are not among them."""
    found: dict[int, psutil.Process] = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        rank = rank_of(child)
        if rank is not None:
            found.setdefault(rank, child)
    return found
