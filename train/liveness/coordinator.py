"""Rank 0's side of the watch: hears all, judges all."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence, Set
from dataclasses import asdict

from train.distributed.progress import Place, Spot
from train.distributed.stop_request import code_of
from train.liveness.connection import Message, Wire, knows
from train.liveness.failure_detector import GRACE_S, QUIETLY, STOPPED, Member, Verdict
from train.liveness.monitor import FAREWELL_S, SAVE_S, Act, Post


class Hub(Post):
    """Rank 0's: hears all, judges all."""

    def __init__(self, place: Place, members: Sequence[Member], timeout_s: float, act: Act,
                 listener: socket.socket, token: str) -> None:
        super().__init__(place, members, 0, timeout_s, act)
        self._listener, self._token = listener, token
        self._strangers: list[Wire] = []
        self._wires: dict[int, Wire] = {}
        self._judge = self._judge_of(members, timeout_s)
        self._own = self._judge.heard[0]
        self._left_at, self._told_at, self._told, self._for_main = 0.0, 0.0, 0, False

    def _sources(self) -> Sequence[socket.socket | Wire]:
        return [self._listener, *self._strangers, *self._wires.values()]

    def _hear(self, found: Set[object], now: float) -> None:
        if self._listener in found:
            self._accept()
        for wire in [one for one in self._strangers if one in found]:
            self._greet(wire)
        for rank, wire in list(self._wires.items()):
            for message in wire.read() if wire in found else ():
                self._read(rank, message, now)
            if not wire.is_open:
                self._lose(rank)
                self._wires.pop(rank).close()

    def _lose(self, rank: int) -> None:
        """Its connection broke; where all were told to stop, that is all it had to do."""
        if rank in self._judge.heard:
            one = self._judge.heard[rank]
            one.gone = True
            one.left = self._own.left if one.left is None and self._own.left in STOPPED else one.left

    def _accept(self) -> None:
        try:
            self._strangers.append(Wire(self._listener.accept()[0]))
        except OSError:
            return  # who called has hung up

    def _greet(self, wire: Wire) -> None:
        for message in wire.read():
            rank = message.get("rank")
            if not knows(message, self._token) or not isinstance(rank, int) or rank not in self._judge.heard:
                wire.is_open = False
            elif rank not in self._wires:
                self._wires[rank] = wire
                wire.send({"welcome": True})
        if not wire.is_open:
            wire.close()
        if not wire.is_open or wire in self._wires.values():
            self._strangers.remove(wire)

    def _read(self, rank: int, message: Message, now: float) -> None:
        one = self._judge.heard.get(rank)
        if one is None:
            return
        if "beat" in message:
            one.beat(Spot(**message["beat"]), now)
        if "tell" in message:
            self._send({"act": message["tell"]}, but=rank)
            self._told_at, self._told = self._told_at or now, message["tell"]
            self._answer(message["tell"])
        if "failed" in message:
            one.failed, one.failed_at = message["failed"], now
        if "bye" in message:
            one.left, one.why, one.left_at = message["bye"], message["why"], now
            if one.left is None:
                self._judge.heard.pop(rank)
            self._wires[rank].send({"heard": True})

    def _send(self, message: Message, but: int | None = None) -> None:
        for rank, wire in self._wires.items():
            if rank != but:
                wire.send(message)

    def _forward(self, number: int) -> None:
        self._send({"act": number})

    def _beat(self, now: float) -> None:
        spot = self._place.now()
        self._own.beat(spot, now)
        self._send({"beat": asdict(spot)})

    def _goodbye(self, now: float) -> None:
        if self.wishes.failed and not self._own.failed:
            self._own.failed, self._own.failed_at = self.wishes.failed, now
            self._own.beat(self._place.now(), now)
        if self._told_at and self.wishes.leaving is None and now - self._told_at > GRACE_S and self._place.collective:
            # The main thread waits for a rank that waits for it to answer the signal.
            self._let_write(SAVE_S)
            self.wishes.leaving, self._for_main = (code_of(self._told), ""), True
        if self.wishes.leaving is not None and not self._said_goodbye:
            code, why = self.wishes.leaving
            self._said_goodbye, self._left_at, self.bye = True, now, code
            self._own.left, self._own.why, self._own.left_at = code, why, now
            self._send({"bye": code, "why": why, "at": asdict(self._place.now())})

    def _judged(self, now: float) -> Verdict | None:
        if self._said_goodbye and self._own.left not in (0, *STOPPED):
            return None
        self._own.beat(self._place.now(), now)
        hurt = any(one.failed for one in self._judge.heard.values())
        return self._judge.lost(now, hurt) or self._judge.failed(now) or self._judge.stalled(now)

    def _carry_out(self, verdict: Verdict) -> None:
        """Tell all, and give them a moment to end by it before this end of the wires is gone."""
        self._send({"verdict": asdict(verdict)})
        end = time.monotonic() + FAREWELL_S
        waited = {rank: wire for rank, wire in self._wires.items() if not (verdict.silent and rank in verdict.ranks)}
        while any(wire.is_open for wire in waited.values()) and time.monotonic() < end:
            for wire in waited.values():
                if wire.is_open:
                    wire.read()
            time.sleep(0.01)
        self._let_write(FAREWELL_S)
        self._act(verdict, True)

    def _is_done(self, now: float) -> bool:
        """In order, rank 0 leaves last: as long as it is there, no other can hang unseen."""
        if not self._said_goodbye:
            return False
        there = [one for rank, one in self._judge.heard.items() if rank and one.left is None and not one.gone]
        if there and (self._own.left in (0, *STOPPED) or now - self._left_at <= FAREWELL_S):
            return False
        if self._for_main:
            self._act(QUIETLY, False)
        return True

    def knows_of_failures(self) -> bool:
        return self._judge.has_failures()
