"""Start the ranks of a program: horovodrun, but the ranks' exit code comes back, and signals reach them.

    python scripts/launch.py -np 8 python train/itm_hn.py --config ... --output_dir ...
    python scripts/launch.py -np 16 -H node1:8,node2:8 python train/itm_hn.py ...
    python scripts/launch.py -np 2 --min-np 1 --max-np 4 --host-discovery-script hosts.sh python train/itm_hn.py ...

Every flag of horovodrun is one of this program (`horovodrun --help`); ranks talk through gloo, gradients through what
Horovod was built with. What differs:

- The exit code is that of the first rank that failed: 75 where the ranks have saved and want to be started again.
- SIGTERM, SIGUSR1 and SIGINT go to the ranks, which finish their update, save and leave; they get the time they need.
  A second SIGINT kills them. A rank that is told before it can listen has nothing to save, and counts as 75 too.
- Where this program is killed, its ranks are told to save and leave.
- Ranks on other hosts are reached by `srun` inside an allocation of SLURM, by `ssh` elsewhere. Through ssh no signal
  passes: ranks agree among themselves, so at least one must run here.

The words after the flags are the rank's own process: no shell should stand between (`bash -c "exec python ..."`).
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from types import FrameType, SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config.errors import FAILED, INTERRUPTED, REQUEUE, ConfigError
from scripts.command.launch_flags import check, is_local_only, told_in_one_line

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SRUN = "srun --overlap --nodes=1 --ntasks=1 --cpu-bind=none --input=none --quiet"
LEAVING_S = 120.0
"""Ranks leave together with 75; a rank that is still here so long after the first is told, then killed."""
PATIENCE_S = 30.0
"""Between telling a rank to leave, because another has failed, and killing it."""
POLL_S = 0.1
PR_SET_PDEATHSIG = 1


class Ranks:
    """The processes that Horovod's launcher has asked for: their output, their signals, their ends.

    One thread each is inside `execute`; signals are heard in the main thread.
    """

    def __init__(self) -> None:
        self._running: set[Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self.told: int | None = None

    def listen(self) -> threading.Event:
        """Hear signals from now on; returns the event by which Horovod would end the ranks itself, never set."""
        for number in SIGNALS:
            signal.signal(number, self._hear)
        return threading.Event()

    def execute(self, command: str, env: Mapping[str, str] | None = None, stdout: Any = None, stderr: Any = None,
                index: int | None = None, events: Sequence[threading.Event] = (),
                prefix_output_with_timestamp: bool = False) -> int:
        """Run a rank to its end, or until an event says that another has failed; returns its exit code.

        The output goes line by line to the given streams (or this program's), with the rank's number before it.
        """
        from horovod.runner.common.util.safe_shell_exec import prefix_connection

        with self._lock:
            if self._leaving.is_set():
                return REQUEUE  # an elastic launcher fills the place of a rank that has left; all are leaving
            child = start_ranks(command, env)
            self._running.add(child)
        if self.told:
            signal_ranks(child, self.told)  # the signal came while this one was started
        streams = (child.stdout, stdout or sys.stdout, "stdout"), (child.stderr, stderr or sys.stderr, "stderr")
        readers = [threading.Thread(target=prefix_connection, args=(*stream, index, prefix_output_with_timestamp))
                   for stream in streams]
        for reader in readers:
            reader.start()
        code = self._ended(child, events)
        with self._lock:
            self._running.discard(child)
        for reader in readers:
            reader.join(PATIENCE_S)
        kill(child)  # what it has left behind: a reading worker of a killed rank would hold its output open
        return code

    def _ended(self, child: Popen[bytes], events: Sequence[threading.Event]) -> int:
        code = wait_for_ranks(child, lambda: any(event.is_set() for event in events))
        if code is None and self._leaving.is_set():
            code = wait_for_ranks(child, patience_s=LEAVING_S)
        if code is None:
            child.terminate()
            code = wait_for_ranks(child, patience_s=PATIENCE_S)
        if code is None:
            kill(child)
            code = child.wait()
        if self.told and code in (-self.told, 128 + signal.SIGUSR1):  # the latter through srun
            code = REQUEUE
        if code == REQUEUE:
            self._leaving.set()
        return code if code >= 0 else 128 - code

    def _hear(self, number: int, _: FrameType | None) -> None:
        again = number == self.told == signal.SIGINT
        self.told = number
        self._leaving.set()
        for child in list(self._running):
            if again:
                kill(child)
            else:
                signal_ranks(child, number)


def start_ranks(command: str, env: Mapping[str, str] | None = None) -> Popen[bytes]:
    """Start a command in a session of its own, so that an interrupt at the terminal reaches it once, through here."""
    libc = ctypes.CDLL(None)
    # Nothing of Python's happens between fork and exec but this one call into the C library.
    return Popen(f"exec {command}", shell=True, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE, start_new_session=True,
                 preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM))


def wait_for_ranks(
    child: Popen[bytes], until: Callable[[], bool] = lambda: False, patience_s: float = 0.0
) -> int | None:
    """The exit code of a child; None where `until()` holds first, or, if `patience_s` is given, after so long."""
    turns = int(patience_s / POLL_S)
    while True:
        with suppress(TimeoutExpired):
            return child.wait(POLL_S)
        turns -= 1
        if until() or turns == 0:
            return None


def signal_ranks(child: Popen[bytes], number: int) -> None:
    """Pass a signal on: as it is to a rank here; through srun as SIGUSR1, for srun kills its tasks at the others."""
    words = str(child.args)
    if words.startswith(f"exec {SRUN}"):
        number = signal.SIGUSR1
    elif words.startswith("exec ssh "):
        return
    with suppress(ProcessLookupError):
        child.send_signal(number)


def kill(child: Popen[bytes]) -> None:
    """End a child and whatever it has started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def by_srun(quoted: str, host: str, **_: Any) -> str:
    """The command that runs another one, quoted as one word, on a node of the allocation."""
    return f"{SRUN} --nodelist={host} bash -c {quoted}"


def inside_allocation(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether other hosts are nodes of a job of SLURM."""
    return "SLURM_JOB_ID" in environ and shutil.which("srun") is not None


def run(args: Any, ranks: Ranks) -> int:
    """Horovod's own launcher, with the ranks' processes in our hands; returns the exit code.

    Raises:
        ConfigError: the flags ask for another way of starting ranks.
    """
    from horovod.runner import gloo_run, launch
    from horovod.runner.common.util.timeout import TimeoutException
    from horovod.runner.driver import driver_service

    if args.use_mpi or args.use_jsrun:
        raise ConfigError("--mpi and --jsrun start ranks in their own ways; leave them out, or use horovodrun itself")
    if not args.command:
        raise ConfigError("no program is named; give it after the flags: -np 2 python train/itm_hn.py --config ...")
    check(args, is_local_only(args))
    args.use_gloo = True
    args.disable_cache = True  # what it keeps in the home folder may be of another allocation
    gloo_run.safe_shell_exec = SimpleNamespace(execute=ranks.execute)
    gloo_run.register_shutdown_event = ranks.listen
    if inside_allocation():
        gloo_run.get_remote_command = by_srun
        driver_service.get_remote_command = lambda command, **to: by_srun(shlex.quote(command), **to)
        launch._check_all_hosts_ssh_successful = lambda *_, **__: True
    try:
        launch._run(args)
    except (RuntimeError, ValueError, TimeoutException) as error:
        found = re.search(r"Exit code: (\d+)", str(error))
        if found is None:
            sys.stderr.write(f"launch: {' '.join(str(error).split())}\n")
        return INTERRUPTED if ranks.told == signal.SIGINT else int(found[1]) if found else FAILED
    return 0


def main() -> int:
    ranks = Ranks()
    ranks.listen()
    from horovod.runner.launch import parse_args

    try:
        with told_in_one_line():
            args = parse_args()
        return run(args, ranks)
    except ConfigError as error:
        sys.stderr.write(f"launch: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
