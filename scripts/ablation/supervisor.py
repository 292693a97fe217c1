"""Commands, one or a few at a time, their talk in logs, and whatever a scheduler says passed on to them."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import NamedTuple

import psutil

from config.errors import INTERRUPTED, REQUEUE, ConfigError

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Ended(NamedTuple):
    """How a command ended: its exit code, and the last thing it said."""

    code: int
    last: str

    @property
    def is_stop(self) -> bool:
        """Told to stop, it saved and left: a failure of nothing."""
        return self.code in (REQUEUE, INTERRUPTED)


class Supervisor:
    """Calls entries as a user would from a shell in this process's folder.

    lock: a descriptor that the commands inherit (see `alone`).
    threads: that each process calculates with; as the environment has it where nothing is said.
    Several threads may `call` at a time; signals are heard in the main one.
    """

    def __init__(self, lock: int, threads: int | None = None) -> None:
        self.lock = lock
        self.environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        self.told: int | None = None
        self._children: set[Popen[bytes]] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Meanwhile SIGTERM, SIGUSR1 and SIGINT stop the commands at work, which save, and let no other begin."""
        before = {kind: signal.signal(kind, self._hear) for kind in SIGNALS}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def call(self, entry: str, words: Sequence[str], log: Path, ranks: int = 1) -> Ended:
        """Run an entry of the project to its end; its output is added to `log`."""
        if self.told:
            return Ended(stop_code(self.told), "")
        whole = [*launcher(ranks), sys.executable, str(ROOT / entry), *words]
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(whole)}\n".encode())
            file.flush()
            begin = file.tell()
            # A session of its own: an interrupt at the terminal reaches it once, through here.
            with Popen(whole, stdin=DEVNULL, stdout=file, stderr=STDOUT, start_new_session=True,
                       pass_fds=(self.lock,), env=self.environment) as child:
                self._children.add(child)
                if self.told:
                    self._pass_on(child, self.told)
                code = child.wait()
                self._children.discard(child)
        ended = ending(code, log.read_bytes()[begin:].decode(errors="replace"))
        return Ended(stop_code(self.told), ended.last) if self.told and code else ended

    def stop(self, number: int) -> None:
        """Do as if this signal had come, unless one has."""
        if self.told is None:
            self._hear(number, None)

    def _hear(self, number: int, _: object) -> None:
        self.told = number
        for child in list(self._children):
            self._pass_on(child, number)

    def _pass_on(self, child: Popen[bytes], number: int) -> None:
        """Tell the ranks themselves where there are any: their launcher would leave them five seconds to save."""
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            for process in [process for process in family if _is_entry(process)] or family[:1]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


def _is_entry(process: psutil.Process) -> bool:
    """Whether a process is `python ENTRY ...`, no launcher and no shell that has the entry among its words."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return len(words) > 1 and Path(words[1]).parent == ROOT / "train"


def launcher(ranks: int) -> list[str]:
    """The words before `python` that start so many ranks on this machine.

    Raises:
        ConfigError: Horovod's launcher is not beside this Python.
    """
    if ranks == 1:
        return []
    path = Path(sys.executable).parent / "horovodrun"
    if not path.exists():
        raise ConfigError(f"--ranks {ranks}: there is no {path}; install Horovod (scripts/setup.sh) or use --ranks 1")
    return [str(path), "-np", str(ranks)]


def ending(code: int, talk: str) -> Ended:
    """How a command ended by its exit code and its talk; Horovod's launcher leaves with 1 whatever its ranks said."""
    rank = re.search(r"^Process name: (\d+)\nExit code: (\d+)$", talk, re.MULTILINE)
    lines = [line for line in talk.splitlines() if line.strip()]
    if code and rank:
        code = int(rank[2])
        before = f"[{rank[1]}]<stderr>:"
        lines = [line.removeprefix(before) for line in lines if line.startswith(before)] or lines
    return Ended(code, lines[-1].strip() if lines else "")


@contextmanager
def alone(output: Path) -> Iterator[int]:
    """Hold the output folder, so that two ablations do not write one table; yields the lock's descriptor.

    Commands inherit it: a training that outlives a killed ablation holds the folder until it ends.

    Raises:
        ConfigError: another one is at work there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--output_dir {output}: another ablation, or a training that one left behind, is at "
                              "work here; wait for its end, or name another folder") from None
        yield file.fileno()


def stop_code(number: int) -> int:
    """What a program leaves with that this signal has stopped."""
    return INTERRUPTED if number == signal.SIGINT else REQUEUE
