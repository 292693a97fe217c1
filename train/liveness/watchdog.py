"""The watchdog: a rank that stalls or is lost ends the whole group, with one line that says why.

Every rank has a thread that talks to rank 0's over a socket of its own, beside the library of the collectives, which
does not notice a rank that hangs alive.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import TextIO

from config.errors import FAILED, INTERRUPTED, ConfigError, DataError, Failure
from data.batches.worker import kill_all
from train.distributed.comm import Comm
from train.liveness.connection import addresses_of_host, connect, listen
from train.liveness.coordinator import Coordinator
from train.liveness.failure_detector import GRACE_S, STOPPED, Member, Verdict
from train.liveness.monitor import Monitor
from train.liveness.participant import Participant

RESTART_HINT = "what is saved is whole; start again with the same command"
VERDICT_S = 10.0
"""How long a rank whose collective failed waits to hear who is to blame."""


class Watchdog:
    """The watchdog of one rank over one life of the group; inside `with`, an error says goodbye for this rank.

    A group of one, and one with `timeout_s` 0, is not watched; then every method does nothing.

    Args:
        folder: where logs are; the stacks of all threads are written to this rank's when the group ends.
        timeout_s: seconds within which a group that cannot go on has ended.
        elastic: the group goes on without a lost rank, so only that rank is ended.
    """

    def __init__(self, program: str, comm: Comm, folder: Path | None, timeout_s: float, elastic: bool = False) -> None:
        self._program, self._comm, self._folder, self._elastic = program, comm, folder, elastic
        self.code = 0
        self._monitor: Monitor | None = None
        self._members: list[Member] = []
        if comm.size > 1 and timeout_s > 0:
            found = comm.all_gather_object(identify_process())
            self._members = [Member(rank, *told) for rank, told in enumerate(found)]
            self._monitor = self._start_monitor(timeout_s)

    def _start_monitor(self, timeout_s: float) -> Monitor:
        """This rank's thread, once all ranks have found rank 0's.

        Raises:
            Failure: one cannot reach rank 0.
        """
        comm, members = self._comm, self._members
        others = sorted({member.host for member in members} - {members[0].host})
        monitor: Monitor | None = None
        told: list[object] | None = None
        if comm.rank == 0:
            listener, token = listen(bool(others), comm.size), token_hex(16)
            monitor = Coordinator(comm.progress, members, timeout_s, self._act, listener, token)
            monitor.start()
            told = [["127.0.0.1"] if not others else addresses_of_host(others), listener.getsockname()[1], token]
        addresses, port, token = comm.all_gather_object(told)[0]
        if comm.rank:
            near = ["127.0.0.1"] if members[comm.rank].host == members[0].host else []
            connection = connect([*near, *addresses], port, {"token": token, "rank": comm.rank})
            if connection is not None:
                monitor = Participant(comm.progress, members, comm.rank, timeout_s, self._act, connection)
                monitor.start()
        reached = comm.all_gather_object(monitor is not None)
        far = [str(member) for member, is_reached in zip(members, reached, strict=True) if not is_reached]
        if far or monitor is None:
            if monitor is not None:
                monitor.leave(None, "")
            where = f"{', '.join(addresses)} port {port}"
            raise Failure(f"{', '.join(far)} cannot reach {members[0]} at {where}; name the network that joins them "
                          "with HOROVOD_GLOO_IFACE, or do without a watch: --stall_timeout 0")
        return monitor

    def forward_signal(self, number: int) -> None:
        """Let every rank get the signal that this one got, once; a signal handler may call it."""
        if self._monitor is not None:
            self._monitor.requests.told += (number,)
            self._monitor.wake()

    def wait_for_exit(self, timeout_s: float) -> int | None:
        """The exit code that rank 0 left with; None where it has not after `timeout_s`."""
        self._wait(lambda: self._monitor is None or self._monitor.bye is not None, timeout_s)
        return None if self._monitor is None else self._monitor.bye

    def wait_for_failures(self, timeout_s: float = 0.3) -> None:
        """Give a failure of another rank, which may be why a launcher signals this one, time to be told instead."""
        self._wait(lambda: self._monitor is None, timeout_s)
        if self._monitor is not None and self._monitor.has_seen_failures():
            self._wait(lambda: False, 2 * GRACE_S)

    def await_verdict(self, error: BaseException) -> None:
        """A collective has failed: wait to be ended by the verdict; returns where there is none."""
        if self._monitor is not None:
            self._monitor.requests.failed = first_line(error)
            self._monitor.wake()
            self._wait(lambda: False, VERDICT_S)

    def goodbye(self, code: int | None, why: str = "") -> None:
        """Leave with an exit code; rank 0 waits for the others. None: for a while, as when the group is made anew."""
        if self._monitor is not None and not self._monitor.is_over:
            self._monitor.leave(code, why)
            while not self._monitor.is_over:
                time.sleep(0.005)

    def stop(self) -> None:
        """End the watch; all ranks do."""
        self.goodbye(None)

    def _wait(self, until: Callable[[], bool], timeout_s: float) -> None:
        """Without any lock, for a signal handler may interrupt whatever holds one."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not until() and self._monitor is not None and not self._monitor.is_over:
            time.sleep(0.01)

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if self._elastic and error is not None and self._comm.can_regroup_after(error):
            self.stop()
            return
        if error is not None and self._comm.means_lost_rank(error):
            self.await_verdict(error)
        self.goodbye(
            self.code if error is None else exit_code_of_error(error), "" if error is None else first_line(error)
        )

    def _act(self, verdict: Verdict, speaks: bool) -> None:
        """Carry out a verdict; called by the thread that watches."""
        if verdict.text:
            stacks = self._dump(verdict)
        if verdict.text and speaks:
            after = "going on without" if self._elastic else RESTART_HINT
            line = f"{self._program}, rank {self._comm.rank}: {verdict.text}{stacks}; {after}\n"
            os.write(2, line.encode())  # the main thread may hold the lock of sys.stderr
        if verdict.silent:
            self._end_silent(verdict)
        if not self._elastic or not verdict.ranks or self._comm.rank in verdict.ranks:
            kill_all()
            left = FAILED if self._monitor is None else self._monitor.bye
            os._exit(left if left in STOPPED else FAILED)

    def _end_silent(self, verdict: Verdict) -> None:
        """A stopped process of this host cannot end itself, and its launcher would wait for it."""
        own = self._members[self._comm.rank]
        for member in self._members:
            near = own.space and (member.host, member.space) == (own.host, own.space)
            if near and member.rank in verdict.ranks:
                try:
                    os.kill(member.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _dump(self, verdict: Verdict) -> str:
        """Write the stacks of all threads of this rank to its log; returns where they are, in words."""
        name = f"log.rank{self._comm.rank}.txt" if self._comm.rank else "log.txt"
        head = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {verdict.text}; the stacks of rank {self._comm.rank}:\n"
        if self._folder is None or not self._folder.is_dir():
            return ""
        try:
            with (self._folder / name).open("a", encoding="utf-8") as log:
                write_stacks(log, head)
        except OSError as error:
            return f"; no stacks, for {self._folder / name} cannot be written to ({error.strerror})"
        return f"; stacks in {self._folder}/log*.txt"


def write_stacks(log: TextIO, head: str) -> None:
    """A heading, and where every thread of this process is."""
    log.write(head)
    log.flush()
    faulthandler.dump_traceback(log, all_threads=True)


def identify_process() -> list[object]:
    """Host, process, and the space in which its number holds: containers of one host may each have their own."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return [socket.gethostname(), os.getpid(), space]


def exit_code_of_error(error: BaseException) -> int:
    """The exit code that a process leaves with for this error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else FAILED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, ConfigError | DataError | Failure) else FAILED


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a line about it."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}"[:300]
