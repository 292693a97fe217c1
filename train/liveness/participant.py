"""Any other rank's side of the watch: talks to rank 0, and judges it alone."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import asdict

from train.distributed.progress import Place, Spot
from train.liveness.connection import Wire
from train.liveness.failure_detector import GRACE_S, QUIETLY, STOPPED, Member, Verdict
from train.liveness.monitor import FAREWELL_S, Act, Post


class Spoke(Post):
    """Another rank's: talks to the hub, and judges it alone."""

    def __init__(self, place: Place, members: Sequence[Member], rank: int, timeout_s: float, act: Act,
                 wire: Wire) -> None:
        super().__init__(place, members, rank, timeout_s, act)
        self._wire = wire
        self._judge = self._judge_of([members[0], members[rank]], timeout_s)
        self._hub, self._own = self._judge.heard[0], self._judge.heard[rank]
        self._told_failure, self._was_heard, self._said_at = False, False, 0.0

    def _sources(self) -> Sequence[Wire]:
        return [self._wire] if self._wire.is_open else []

    def _hear(self, found: Set[object], now: float) -> None:
        for message in self._wire.read() if self._wire in found else ():
            if "beat" in message:
                self._hub.beat(Spot(**message["beat"]), now)
            if "act" in message:
                self._answer(message["act"])
            if "heard" in message:
                self._was_heard = True
            if "bye" in message:
                self._hub.beat(Spot(**message["at"]), now)
                self._hub.left, self._hub.why, self._hub.left_at = message["bye"], message["why"], now
                self.bye = message["bye"]
            if "verdict" in message and self.verdict is None:
                told = message["verdict"]
                self.verdict = Verdict(tuple(told["ranks"]), told["text"], told["silent"])
                self._act(self.verdict, False)
        self._hub.gone = not self._wire.is_open

    def _forward(self, number: int) -> None:
        self._wire.send({"tell": number})

    def _beat(self, now: float) -> None:  # noqa: ARG002
        self._wire.send({"beat": asdict(self._place.now())})

    def _goodbye(self, now: float) -> None:
        if self.wishes.failed and not self._told_failure:
            self._told_failure = True
            self._beat(now)
            self._wire.send({"failed": self.wishes.failed})
        if self.wishes.leaving is not None and not self._said_goodbye:
            code, why = self.wishes.leaving
            self._said_goodbye, self._said_at = True, now
            self._beat(now)
            self._wire.send({"bye": code, "why": why})

    def _judged(self, now: float) -> Verdict | None:
        """Only of the hub, and no longer of one that left on purpose and meant nothing by it."""
        if self._said_goodbye or (self._hub.left is None and self._hub.left_at):
            return None
        if self._hub.left in STOPPED:
            return QUIETLY if now - self._hub.left_at > GRACE_S or self.wishes.failed else None
        self._own.beat(self._place.now(), now)
        return self._judge.lost(now, hurt=bool(self.wishes.failed))

    def _carry_out(self, verdict: Verdict) -> None:
        """Rank 0 cannot tell what became of it: the first other rank of each host does."""
        host = self._members[self._rank].host
        first = min(one.rank for one in self._members[1:] if one.host == host)
        self._act(verdict, first == self._rank)

    def _is_done(self, now: float) -> bool:
        return self._said_goodbye and (self._was_heard or not self._wire.is_open or now - self._said_at > FAREWELL_S)

    def knows_of_failures(self) -> bool:
        return self._judge.has_failures()
