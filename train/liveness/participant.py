"""The monitor of any other rank: sends heartbeats to rank 0, and judges rank 0 alone."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import asdict

from train.distributed.progress import Heartbeat, Progress
from train.liveness.connection import Connection
from train.liveness.failure_detector import GRACE_S, QUIET_EXIT, STOPPED, Member, Verdict
from train.liveness.monitor import FAREWELL_S, Act, Monitor


class Participant(Monitor):
    """The monitor of another rank: talks to the coordinator, and judges it alone."""

    def __init__(self, progress: Progress, members: Sequence[Member], rank: int, timeout_s: float, act: Act,
                 connection: Connection) -> None:
        super().__init__(progress, members, rank, timeout_s, act)
        self._connection = connection
        self._detector = self._make_detector([members[0], members[rank]], timeout_s)
        self._coordinator, self._own = self._detector.ranks[0], self._detector.ranks[rank]
        self._told_failure, self._was_heard, self._said_at = False, False, 0.0

    def _sources(self) -> Sequence[Connection]:
        return [self._connection] if self._connection.is_open else []

    def _receive(self, found: Set[object], now: float) -> None:
        for message in self._connection.read() if self._connection in found else ():
            if "beat" in message:
                self._coordinator.beat(Heartbeat(**message["beat"]), now)
            if "act" in message:
                self._deliver(message["act"])
            if "heard" in message:
                self._was_heard = True
            if "bye" in message:
                self._coordinator.beat(Heartbeat(**message["at"]), now)
                self._coordinator.left, self._coordinator.left_at = message["bye"], now
                self._coordinator.why = message["why"]
                self.bye = message["bye"]
            if "verdict" in message and self.verdict is None:
                told = message["verdict"]
                self.verdict = Verdict(tuple(told["ranks"]), told["text"], told["silent"])
                self._act(self.verdict, False)
        self._coordinator.gone = not self._connection.is_open

    def _forward_signal(self, number: int) -> None:
        self._connection.send({"tell": number})

    def _send_heartbeat(self, now: float) -> None:  # noqa: ARG002
        self._connection.send({"beat": asdict(self._progress.heartbeat())})

    def _say_goodbye(self, now: float) -> None:
        if self.requests.failed and not self._told_failure:
            self._told_failure = True
            self._send_heartbeat(now)
            self._connection.send({"failed": self.requests.failed})
        if self.requests.leaving is not None and not self._said_goodbye:
            code, why = self.requests.leaving
            self._said_goodbye, self._said_at = True, now
            self._send_heartbeat(now)
            self._connection.send({"bye": code, "why": why})

    def _find_verdict(self, now: float) -> Verdict | None:
        """Only of the coordinator, and no longer of one that left on purpose and meant nothing by it."""
        if self._said_goodbye or (self._coordinator.left is None and self._coordinator.left_at):
            return None
        if self._coordinator.left in STOPPED:
            return QUIET_EXIT if now - self._coordinator.left_at > GRACE_S or self.requests.failed else None
        self._own.beat(self._progress.heartbeat(), now)
        return self._detector.find_lost(now, collective_failed=bool(self.requests.failed))

    def _carry_out(self, verdict: Verdict) -> None:
        """Rank 0 cannot tell what became of it: the first other rank of each host does."""
        host = self._members[self._rank].host
        first = min(one.rank for one in self._members[1:] if one.host == host)
        self._act(verdict, first == self._rank)

    def _is_done(self, now: float) -> bool:
        is_heard = self._was_heard or not self._connection.is_open
        return self._said_goodbye and (is_heard or now - self._said_at > FAREWELL_S)

    def has_seen_failures(self) -> bool:
        return self._detector.has_seen_failures()
