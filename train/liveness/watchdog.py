"""No rank waits for ever: each tells where it stands, and one that stalls or is lost ends the group in words.

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
from train.liveness.coordinator import Hub
from train.liveness.failure_detector import GRACE_S, STOPPED, Member, Verdict
from train.liveness.monitor import Post
from train.liveness.participant import Spoke

MENDED = "what is saved is whole; start again with the same command"
BLAME_S = 10.0
"""How long a rank whose collective failed waits to hear who is to blame."""


class Watch:
    """The watch of one rank over one life of the group; inside `with`, an error says goodbye for this rank.

    A group of one, and one with `timeout_s` 0, is not watched; then every method does nothing.

    Args:
        folder: where logs are; the stacks of all threads are written to this rank's when the group ends.
        timeout_s: seconds within which a group that cannot go on has ended.
        elastic: the group goes on without a lost rank, so only that rank is ended.
    """

    def __init__(self, program: str, comm: Comm, folder: Path | None, timeout_s: float, elastic: bool = False) -> None:
        self._program, self._comm, self._folder, self._elastic = program, comm, folder, elastic
        self.code = 0
        self._post: Post | None = None
        self._members: list[Member] = []
        if comm.size > 1 and timeout_s > 0:
            self._members = [Member(rank, *told) for rank, told in enumerate(comm.share(identity()))]
            self._post = self._posted(timeout_s)

    def _posted(self, timeout_s: float) -> Post:
        """This rank's thread, once all ranks have found rank 0's.

        Raises:
            Failure: one cannot reach rank 0.
        """
        comm, members = self._comm, self._members
        others = sorted({member.host for member in members} - {members[0].host})
        post: Post | None = None
        told: list[object] | None = None
        if comm.rank == 0:
            listener, token = listen(bool(others), comm.size), token_hex(16)
            post = Hub(comm.place, members, timeout_s, self._act, listener, token)
            post.start()
            told = [["127.0.0.1"] if not others else addresses_of_host(others), listener.getsockname()[1], token]
        addresses, port, token = comm.share(told)[0]
        if comm.rank:
            near = ["127.0.0.1"] if members[comm.rank].host == members[0].host else []
            wire = connect([*near, *addresses], port, {"token": token, "rank": comm.rank})
            if wire is not None:
                post = Spoke(comm.place, members, comm.rank, timeout_s, self._act, wire)
                post.start()
        far = [str(members[rank]) for rank, reached in enumerate(comm.share(post is not None)) if not reached]
        if far or post is None:
            if post is not None:
                post.leave(None, "")
            where = f"{', '.join(addresses)} port {port}"
            raise Failure(f"{', '.join(far)} cannot reach {members[0]} at {where}; name the network that joins them "
                          "with HOROVOD_GLOO_IFACE, or do without a watch: --stall_timeout 0")
        return post

    def tell_all(self, number: int) -> None:
        """Let every rank get the signal that this one got, once; may be called from a signal handler."""
        if self._post is not None:
            self._post.wishes.told += (number,)
            self._post.wake()

    def wait_for_goodbye(self, patience_s: float) -> int | None:
        """The exit code that rank 0 left with; None where it has not after `patience_s`."""
        self._wait(lambda: self._post is None or self._post.bye is not None, patience_s)
        return None if self._post is None else self._post.bye

    def settle(self, patience_s: float = 0.3) -> None:
        """Give a failure of another rank, which may be why a launcher signals this one, time to be told instead."""
        self._wait(lambda: self._post is None, patience_s)
        if self._post is not None and self._post.knows_of_failures():
            self._wait(lambda: False, 2 * GRACE_S)

    def blame(self, error: BaseException) -> None:
        """A collective has failed: wait to be ended by the verdict; returns where there is none."""
        if self._post is not None:
            self._post.wishes.failed = first_line(error)
            self._post.wake()
            self._wait(lambda: False, BLAME_S)

    def goodbye(self, code: int | None, why: str = "") -> None:
        """Leave with an exit code; rank 0 waits for the others. None: for a while, as when the group is made anew."""
        if self._post is not None and not self._post.is_over:
            self._post.leave(code, why)
            while not self._post.is_over:
                time.sleep(0.005)

    def stop(self) -> None:
        """End the watch; all ranks do."""
        self.goodbye(None)

    def _wait(self, until: Callable[[], bool], patience_s: float) -> None:
        """Without any lock, for a signal handler may interrupt whatever holds one."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end and not until() and self._post is not None and not self._post.is_over:
            time.sleep(0.01)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if self._elastic and error is not None and self._comm.regroups(error):
            self.stop()
            return
        if error is not None and self._comm.lost(error):
            self.blame(error)
        self.goodbye(self.code if error is None else code_of(error), "" if error is None else first_line(error))

    def _act(self, verdict: Verdict, speaks: bool) -> None:
        """Carry out a verdict; called by the thread that watches."""
        if verdict.text:
            stacks = self._dump(verdict)
        if verdict.text and speaks:
            after = "going on without" if self._elastic else MENDED
            line = f"{self._program}, rank {self._comm.rank}: {verdict.text}{stacks}; {after}\n"
            os.write(2, line.encode())  # the main thread may hold the lock of sys.stderr
        if verdict.silent:
            self._end_silent(verdict)
        if not self._elastic or not verdict.ranks or self._comm.rank in verdict.ranks:
            kill_all()
            left = FAILED if self._post is None else self._post.bye
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


def identity() -> list[object]:
    """Host, process, and the space in which its number holds: containers of one host may each have their own."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return [socket.gethostname(), os.getpid(), space]


def code_of(error: BaseException) -> int:
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
