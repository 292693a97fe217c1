"""What every entry shares: command line, process group, watchdog, signals, exit codes."""

from __future__ import annotations

import errno
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from config.command.cli import Extra, parse
from config.command.settings_read import Reads
from config.errors import FAILED, ConfigError, DataError, Failure
from config.schema import Run
from data.batches.worker import kill_all
from train.assembly.kinds import KINDS
from train.distributed.comm import Comm
from train.distributed.deadline import set_alarm
from train.distributed.host import keep_freed_memory, share_cores
from train.distributed.process_groups import RankRemoved, join_process_group
from train.distributed.stop_request import SIGNALS, exit_code_of_signal
from train.liveness.watchdog import RESTART_HINT, Watchdog, first_line

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
GOODBYE_S = 120.0
"""How long a rank that was told to stop waits for rank 0, which may have to save first."""
ORDERS = set(SIGNALS) - {signal.SIGINT}
"""Signals that a scheduler sends."""
Work = Callable[[Run, Namespace, Comm], int]


def main(program: str, description: str, work: Work, reads: Reads, extra: Extra | None = None) -> int:
    """Run an entry; returns its exit code and prints at most one line for a failure that a user can mend."""
    run, args = parse(sys.argv[1:], program, KINDS, description, extra, reads)
    signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)  # until there is somebody to answer them
    comm = join_or_leave(program, join_process_group)
    share_cores(comm.local_size)
    keep_freed_memory()
    set_alarm(run.cluster.stop_after)
    while True:
        code = run_group(program, run, args, comm, work)
        if code is not None:
            return code
        comm = join_or_leave(program, comm.regroup)


def join_or_leave(program: str, meet: Callable[[], Comm]) -> Comm:
    """The group that this rank comes to be in; without one it ends here, and waits for nobody."""
    try:
        return meet()
    except ConfigError as error:
        leave(tell(program, str(error), error.exit_code))
    except Failure as error:
        leave(tell(program, f"{error}; {RESTART_HINT}", error.exit_code))
    except RankRemoved as farewell:
        leave(tell(program, str(farewell), 0))


def run_group(program: str, run: Run, args: Namespace, comm: Comm, work: Work) -> int | None:
    """The work of one group of ranks from its beginning to its end.

    Returns:
        The exit code; None where the group is to be made anew, and the work to be called again for it.
    """
    who = f"{program}, rank {comm.rank}" if comm.size > 1 else program
    folder = Path(run.output.output_dir) if run.output.output_dir else None
    try:
        elastic = is_elastic(run, comm)
        with Watchdog(program, comm, folder, run.cluster.stall_timeout, elastic) as watchdog:
            answer_signals(comm, watchdog)
            watchdog.code = work(run, args, comm)
        comm.close()
    except (ConfigError, DataError, Failure) as error:
        return tell(who, with_notes(str(error), error), error.exit_code)
    except OSError as error:
        if error.errno not in DISK:
            raise
        why = f"{error.filename or 'a file'}: {error.strerror}"
        return tell(who, f"{with_notes(why, error)}; {RESTART_HINT}, once there is room", FAILED)
    except Exception as error:
        if elastic and comm.can_regroup_after(error):
            tell(who, f"{with_notes(first_line(error), error)}; going on with those who are there", 0)
            return None
        if not comm.means_lost_rank(error):
            raise
        why = f"a collective failed at {comm.progress.heartbeat()}: {first_line(error)}"
        return tell(who, f"{with_notes(why, error)}; {RESTART_HINT}", FAILED)
    return watchdog.code


def is_elastic(run: Run, comm: Comm) -> bool:
    """Whether the run goes on without lost ranks; raises ConfigError where that was asked for in vain."""
    if run.cluster.elastic and not comm.elastic:
        raise ConfigError("elastic=True: no elastic launcher started this; give horovodrun --min-np, --max-np and "
                          "--host-discovery-script, or leave --elastic out")
    return run.cluster.elastic


def answer_signals(comm: Comm, watchdog: Watchdog) -> None:
    """Let signals end all ranks with "start me again" wherever no update has to end first.

    Rank 0 goes first, and the others with it. A launcher sends SIGTERM to the other ranks too when it has lost one;
    then that is told.
    """

    def told(number: int, _: object) -> None:
        watchdog.forward_signal(number)
        if comm.rank:
            watchdog.wait_for_exit(GOODBYE_S)
        else:
            watchdog.wait_for_failures()
        watchdog.goodbye(exit_code_of_signal(number))
        leave(exit_code_of_signal(number))

    for kind in SIGNALS:
        signal.signal(kind, told)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDERS)


def with_notes(what: str, error: BaseException) -> str:
    """A line, and in it what else went wrong on the way out, such as a checkpoint that could not be saved either."""
    return "; ".join([what, *(" ".join(note.split()) for note in getattr(error, "__notes__", []) if note.strip())])


def tell(who: str, what: str, code: int) -> int:
    """One line on stderr; returns `code`."""
    sys.stderr.write(f"{who}: {what}\n")
    sys.stderr.flush()
    return code


def leave(code: int) -> NoReturn:
    """End the process with `code` at once, without waiting for a group whose members may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    kill_all()
    os._exit(code)
