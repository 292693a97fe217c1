"""The monitor thread of a rank: what coordinator and participants share."""

from __future__ import annotations

import selectors
import signal
import socket
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from train.distributed.progress import Progress
from train.liveness.connection import Connection, close_in_children
from train.liveness.failure_detector import FailureDetector, Member, Verdict

SAVE_S = 60.0
"""How long rank 0 may still write before it leaves for a signal; before it leaves for a verdict, `FAREWELL_S`."""
FAREWELL_S = 1.0
"""How long one waits to be heard when there is no more to say."""
Act = Callable[[Verdict, bool], None]


@dataclass
class Requests:
    """What the main thread asks of the monitor; plain values, for a signal handler may hold no lock.

    told: signals that this rank got, for all to hear.
    leaving: the exit code that it leaves with, and why; code None: it leaves without meaning anything.
    failed: what a collective failed with.
    """

    told: tuple[int, ...] = ()
    leaving: tuple[int | None, str] | None = None
    failed: str = ""


class AwakeClock:
    """A clock that counts only while this process runs: one stopped with all its peers has missed nothing."""

    def __init__(self, most_s: float) -> None:
        self.now, self._most_s, self._last = 0.0, most_s, time.monotonic()

    def tick(self) -> float:
        last, self._last = self._last, time.monotonic()
        self.now += min(self._last - last, self._most_s)
        return self.now


class Monitor(threading.Thread):
    """Sends heartbeats, listens, judges, and acts on the verdict.

    Args:
        act: what is done about a verdict; the flag says whether this rank is the one to tell it.
        timeout_s: seconds within which a group that cannot go on has ended.
    """

    def __init__(self, progress: Progress, members: Sequence[Member], rank: int, timeout_s: float, act: Act) -> None:
        super().__init__(name="watch", daemon=True)
        self.requests = Requests()
        self.is_over = False
        self.bye: int | None = None  # the code that rank 0 left with
        self.verdict: Verdict | None = None
        self._progress, self._members, self._rank, self._act = progress, members, rank, act
        self._period = min(1.0, timeout_s / 10)
        self._clock = AwakeClock(3 * self._period)
        self._wakes, self._woken = socket.socketpair()
        for end in (self._wakes, self._woken):
            end.setblocking(False)
            close_in_children(end)
        self._beaten_at = -self._period
        self._acted: set[int] = set()
        self._said_goodbye = False

    def _make_detector(self, members: Sequence[Member], timeout_s: float) -> FailureDetector:
        # What was heard may be a period old when it comes, and to end takes moments too, the longest where rank 0 goes.
        return FailureDetector(members, self._clock.now, timeout_s - 4 * self._period)

    def wake(self) -> None:
        """Look at `requests` now; may be called from a signal handler."""
        try:
            self._wakes.send(b"x")
        except OSError:
            return  # so many calls wait already, or the thread has ended

    def leave(self, code: int | None, why: str) -> None:
        """Say goodbye and end; `is_over` tells when."""
        self.requests.leaving = code, why
        self.wake()

    def run(self) -> None:
        try:
            while not self._poll():
                pass
        finally:
            self._close_sockets()
            self.is_over = True

    def _poll(self) -> bool:
        """Wait for news or the next beat, and deal with both; True at the end."""
        with selectors.PollSelector() as selector:
            for one in (self._woken, *self._sources()):
                selector.register(one, selectors.EVENT_READ)
            found = {key.fileobj for key, _ in selector.select(self._period / 2)}
        now = self._clock.tick()
        if self._woken in found:
            self._woken.recv(4096)
        self._receive(found, now)
        for number in self.requests.told:
            if number not in self._acted:
                self._acted.add(number)
                self._forward_signal(number)
        if now - self._beaten_at >= self._period:
            self._beaten_at = now
            self._send_heartbeat(now)
        self._say_goodbye(now)
        verdict = None if self.verdict else self._find_verdict(now)
        if verdict:
            self.verdict = verdict
            self._carry_out(verdict)
        return self._is_done(now)

    def _deliver(self, number: int) -> None:
        """Let this rank get a signal that another one got, once."""
        main = threading.main_thread().ident
        if number not in self._acted and main is not None:
            self._acted.add(number)
            signal.pthread_kill(main, number)

    def _wait_for_writer(self, timeout_s: float) -> None:
        """Give what is on its way to the disk so much time."""
        end = time.monotonic() + timeout_s
        while self._progress.writes() and time.monotonic() < end:
            time.sleep(0.02)

    def _close_sockets(self) -> None:
        for one in (self._wakes, self._woken, *self._sources()):
            one.close()

    @abstractmethod
    def _sources(self) -> Sequence[socket.socket | Connection]:
        """What news come from."""

    @abstractmethod
    def _receive(self, found: Set[object], now: float) -> None:
        """Read what has come."""

    @abstractmethod
    def _forward_signal(self, number: int) -> None:
        """Let all ranks hear of a signal that this one got."""

    @abstractmethod
    def _send_heartbeat(self, now: float) -> None:
        """Show that this rank lives."""

    @abstractmethod
    def _say_goodbye(self, now: float) -> None:
        """Tell that this rank leaves, where it requests to."""

    @abstractmethod
    def _find_verdict(self, now: float) -> Verdict | None:
        """Whether the group cannot go on."""

    @abstractmethod
    def _carry_out(self, verdict: Verdict) -> None:
        """Do what a verdict asks for."""

    @abstractmethod
    def _is_done(self, now: float) -> bool:
        """Whether there is no more to do."""

    @abstractmethod
    def has_seen_failures(self) -> bool:
        """Whether a rank has left because it failed."""
