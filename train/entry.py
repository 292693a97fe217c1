"""What every entry does around its work: the run from the command line, the ranks, the output folder, exit codes."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from config import load
from config.cli import Extra, parse
from config.errors import FAILED, REQUEUE, ConfigError, DataError, Failure
from config.schema import Run
from data.files import write_json
from model.matcher import find
from model.objective import find_objective
from train.comm import Comm, Roll, detect
from train.host import keep_freed_memory, share_cores

KINDS = {"matcher": lambda name: find(name).settings, "objective": lambda name: find_objective(name).settings}
Work = Callable[[Run, Namespace, Comm], int]


def main(program: str, description: str, work: Work, extra: Extra | None = None) -> int:
    """Run an entry; returns its exit code and prints at most one line for a failure that a user can mend."""
    run, args = parse(sys.argv[1:], program, KINDS, description, extra)
    try:
        comm = detect()
    except ConfigError as error:
        return tell(program, str(error), error.exit_code)
    try:
        share_cores(comm.local_size)
        keep_freed_memory()
        roll = Roll(comm)
        answer_signals(program, comm, roll)
        code = work(run, args, comm)
        comm.close()
    except (ConfigError, DataError, Failure) as error:
        return tell(f"{program}, rank {comm.rank}" if comm.size > 1 else program, str(error), error.exit_code)
    except Exception as error:
        if not comm.lost(error):
            raise
        return tell_lost(program, comm, roll.missing())
    return code


def answer_signals(program: str, comm: Comm, roll: Roll) -> None:
    """Let SIGTERM and SIGUSR1 end the process with "start me again" wherever no update has to end first.

    A launcher sends SIGTERM to the other ranks too when it has lost one; then that is told.
    """

    def told(_: int, __: object) -> None:
        gone = roll.gone()
        leave(tell_lost(program, comm, gone) if gone else REQUEUE)

    for kind in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(kind, told)


def tell_lost(program: str, comm: Comm, who: str) -> int:
    """The line of a rank that cannot go on without `who`."""
    lost = f"lost {who}; what is saved is whole; start again with the same command"
    return tell(f"{program}, rank {comm.rank}", lost, FAILED)


def tell(who: str, what: str, code: int) -> int:
    """One line on stderr; returns `code`."""
    sys.stderr.write(f"{who}: {what}\n")
    sys.stderr.flush()
    return code


def leave(code: int) -> None:
    """End the process with `code` at once, without waiting for a group whose members may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def claim(run: Run, comm: Comm) -> Path:
    """The output folder, made and marked as this run's before anything else is written to it.

    Raises:
        ConfigError: no folder is named, it cannot be made, it holds another run, or it may not be resumed.
        DataError: the checkpoint to resume from does not exist.
    """
    if not run.output.output_dir:
        raise ConfigError("output_dir is not set; give --output_dir FOLDER")
    folder = Path(run.output.output_dir)
    config = folder / "config.json"
    if config.exists():
        theirs = load(config, {}, KINDS).hash()
        if theirs != run.hash():
            raise ConfigError(f"output_dir={folder}: holds run {theirs}, this is run {run.hash()}; name another folder")
        if run.output.resume == "never" and (folder / "ckpt").exists():
            raise ConfigError(f"output_dir={folder}: holds this run's checkpoints; use --resume auto or another folder")
    if run.output.resume not in ("auto", "never") and not Path(run.output.resume).exists():
        raise DataError(f"resume={run.output.resume}: no such checkpoint; name a folder such as ckpt/latest, or auto")
    if comm.rank == 0 and not config.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(config, run.dump(), indent=1)
        except OSError as error:
            raise ConfigError(f"output_dir={folder}: cannot be made ({error.strerror}); name another folder") from error
    comm.barrier("claimed")
    return folder
