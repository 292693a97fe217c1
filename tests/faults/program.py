"""An entry with one thing broken on one rank: `program.py FAULT RANK train/itm_hn.py flags...` (see test_stalls.py).

The fault happens in update `STEP`, or in the first piece of a validation that is written.
"""

import errno
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from train.distributed.comm import Comm
from train.distributed.progress import Progress
from train.loop import reducer
from train.scoring import resumable_chunks

STEP = 4


def now() -> None:
    """Leave the moment of the fault on stderr."""
    os.write(2, f"broken at {time.time()}\n".encode())


def fail() -> None:
    raise ArithmeticError("a mistake of {ours}")


def slow(*_: object) -> None:
    now()
    time.sleep(10**6)


def full(path: Path, *_: object) -> None:
    now()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


ON_STEP: dict[str, Callable[[], Any]] = {
    "exception": fail,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda: time.sleep(10**6),
    "sys.exit(0)": lambda: sys.exit(0),
    "os._exit(0)": lambda: os._exit(0),
}


def break_step(act: Callable[[], Any]) -> None:
    """Do it when the update begins."""
    begin_step = Progress.begin_step

    def broken(self: Progress, step: int) -> None:
        begin_step(self, step)
        if step == STEP:
            now()
            act()

    Progress.begin_step = broken  # type: ignore[method-assign]


def break_collective(other: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Give something else, or nothing, to the first gradient that is sent in the update."""
    send, done = Comm.mean_async_, []

    def broken(self: Comm, tensor: torch.Tensor, name: str) -> Any:
        if self.progress.step == STEP and name.startswith("gradient.") and not done:
            done.append(name)
            now()
            given = other(tensor)
            return send(self, given, name) if given is not None else lambda: None
        return send(self, tensor, name)

    Comm.mean_async_ = broken  # type: ignore[method-assign]


def break_it(fault: str) -> None:
    if fault in ON_STEP:
        break_step(ON_STEP[fault])
    elif fault == "uneven":
        break_collective(lambda _: None)
    elif fault == "shape":
        break_collective(lambda tensor: torch.zeros(tensor.numel() + 3))
    elif fault == "disk full":
        resumable_chunks.write_checked_array = full  # type: ignore[assignment, attr-defined]
    elif fault == "hang in validation":
        resumable_chunks.write_checked_array = slow  # type: ignore[assignment, attr-defined]
    else:
        raise ValueError(fault)


if __name__ == "__main__":
    fault, rank, program = sys.argv[1:4]
    reducer.BUCKET_BYTES = 1  # so that a fault is in one of many collectives, as in a large model
    if rank == os.environ.get("HOROVOD_RANK", os.environ.get("RANK")):
        break_it(fault)
    sys.argv[:] = sys.argv[3:]
    runpy.run_path(program, run_name="__main__")
