"""Programs that start in a moment: forked from a server in which the large libraries are imported already.

Each is a process of its own, with its own id, signals, files and exit code; only the two seconds are saved that
Python takes to import torch. What a launcher or a shell does to a program is shown by those that tests.processes
and tests.support start.
"""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed import TCPStore

from tests.flow.child import become
from tests.support import ROOT, environment

IMPORTED = ["torch", "torch._dynamo", "torch.distributed", "numpy", "lmdb", "msgpack", "pydantic", "psutil",
            "safetensors.torch", "transformers.models.bert.modeling_bert", "transformers.models.vit.modeling_vit",
            "transformers.models.swin.modeling_swin"]  # fmt: skip
"""What every program waits for; the project itself is imported by each."""
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(IMPORTED)


class Program:
    """A running program, to be asked and told like a `subprocess.Popen`."""

    def __init__(self, words: list[str], out: Path, err: Path, variables: dict[str, str]) -> None:
        given = words, str(ROOT), environment() | variables, str(out), str(err)
        self._words, self._process = words, server.Process(target=become, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, `-number` after a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit code, in the end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._words, timeout)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


@contextmanager
def group(words: tuple[str | Path, ...], folder: Path, ranks: int = 1) -> Iterator[list[Program]]:
    """Running ranks, which write `N-out` and `N-err` in `folder`; more than one are a group of torch.distributed."""
    told = [str(word) for word in words]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if ranks > 1 else None
    programs: list[Program] = []
    try:
        for rank in range(ranks):
            variables = {} if store is None else of_rank(rank, ranks, store.port)
            programs.append(Program(told, folder / f"{rank}-out", folder / f"{rank}-err", variables))
        yield programs
    finally:
        for program in programs:
            program.kill()
        for program in programs:
            program.wait(30)


@contextmanager
def started(words: tuple[str | Path, ...], log: Path) -> Iterator[Program]:
    """A running program whose talk goes to `log`; it is gone afterwards."""
    log.unlink(missing_ok=True)
    program = Program([str(word) for word in words], log, log, {})
    try:
        yield program
    finally:
        program.kill()
        program.wait(30)


def run(*words: str | Path, ranks: int = 1, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; the exit code is that of the first rank which failed."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with group(words, folder, ranks) as programs:
            codes = [program.wait(timeout) for program in programs]
        said = ["".join((folder / f"{rank}-{kind}").read_text() for rank in range(ranks)) for kind in ("out", "err")]
    return subprocess.CompletedProcess(words, next(filter(None, codes), 0), *said)


def of_rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would tell a rank of this host."""
    return {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
