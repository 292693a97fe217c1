"""The monitor of rank 0: receives all heartbeats and judges all ranks."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence, Set
from dataclasses import asdict

from train.distributed.progress import Heartbeat, Progress
from train.distributed.stop_request import exit_code_of_signal
from train.liveness.connection import Connection, Message, has_token
from train.liveness.failure_detector import GRACE_S, QUIET_EXIT, STOPPED, Member, Verdict
from train.liveness.monitor import FAREWELL_S, SAVE_S, Act, Monitor


class Coordinator(Monitor):
    """The monitor of rank 0: hears all ranks and judges all."""

    def __init__(self, progress: Progress, members: Sequence[Member], timeout_s: float, act: Act,
                 listener: socket.socket, token: str) -> None:
        super().__init__(progress, members, 0, timeout_s, act)
        self._listener, self._token = listener, token
        self._strangers: list[Connection] = []
        self._connections: dict[int, Connection] = {}
        self._detector = self._make_detector(members, timeout_s)
        self._own = self._detector.ranks[0]
        self._left_at, self._told_at, self._told, self._for_main = 0.0, 0.0, 0, False

    def _sources(self) -> Sequence[socket.socket | Connection]:
        return [self._listener, *self._strangers, *self._connections.values()]

    def _receive(self, found: Set[object], now: float) -> None:
        if self._listener in found:
            self._accept()
        for connection in [one for one in self._strangers if one in found]:
            self._greet(connection)
        for rank, connection in list(self._connections.items()):
            for message in connection.read() if connection in found else ():
                self._read(rank, message, now)
            if not connection.is_open:
                self._lose(rank)
                self._connections.pop(rank).close()

    def _lose(self, rank: int) -> None:
        """Its connection broke; where all were told to stop, that is all it had to do."""
        if rank in self._detector.ranks:
            one = self._detector.ranks[rank]
            one.gone = True
            one.left = self._own.left if one.left is None and self._own.left in STOPPED else one.left

    def _accept(self) -> None:
        try:
            self._strangers.append(Connection(self._listener.accept()[0]))
        except OSError:
            return  # who called has hung up

    def _greet(self, connection: Connection) -> None:
        for message in connection.read():
            rank = message.get("rank")
            if not has_token(message, self._token) or not isinstance(rank, int) or rank not in self._detector.ranks:
                connection.is_open = False
            elif rank not in self._connections:
                self._connections[rank] = connection
                connection.send({"welcome": True})
        if not connection.is_open:
            connection.close()
        if not connection.is_open or connection in self._connections.values():
            self._strangers.remove(connection)

    def _read(self, rank: int, message: Message, now: float) -> None:
        one = self._detector.ranks.get(rank)
        if one is None:
            return
        if "beat" in message:
            one.beat(Heartbeat(**message["beat"]), now)
        if "tell" in message:
            self._send({"act": message["tell"]}, but=rank)
            self._told_at, self._told = self._told_at or now, message["tell"]
            self._deliver(message["tell"])
        if "failed" in message:
            one.failed, one.failed_at = message["failed"], now
        if "bye" in message:
            one.left, one.why, one.left_at = message["bye"], message["why"], now
            if one.left is None:
                self._detector.ranks.pop(rank)
            self._connections[rank].send({"heard": True})

    def _send(self, message: Message, but: int | None = None) -> None:
        for rank, connection in self._connections.items():
            if rank != but:
                connection.send(message)

    def _forward_signal(self, number: int) -> None:
        self._send({"act": number})

    def _send_heartbeat(self, now: float) -> None:
        heartbeat = self._progress.heartbeat()
        self._own.beat(heartbeat, now)
        self._send({"beat": asdict(heartbeat)})

    def _say_goodbye(self, now: float) -> None:
        if self.requests.failed and not self._own.failed:
            self._own.failed, self._own.failed_at = self.requests.failed, now
            self._own.beat(self._progress.heartbeat(), now)
        is_late = self._told_at and self.requests.leaving is None and now - self._told_at > GRACE_S
        if is_late and self._progress.collective:
            # The main thread waits for a rank that waits for it to answer the signal.
            self._wait_for_writer(SAVE_S)
            self.requests.leaving, self._for_main = (exit_code_of_signal(self._told), ""), True
        if self.requests.leaving is not None and not self._said_goodbye:
            code, why = self.requests.leaving
            self._said_goodbye, self._left_at, self.bye = True, now, code
            self._own.left, self._own.why, self._own.left_at = code, why, now
            self._send({"bye": code, "why": why, "at": asdict(self._progress.heartbeat())})

    def _find_verdict(self, now: float) -> Verdict | None:
        if self._said_goodbye and self._own.left not in (0, *STOPPED):
            return None
        self._own.beat(self._progress.heartbeat(), now)
        detector = self._detector
        collective_failed = any(one.failed for one in detector.ranks.values())
        return detector.find_lost(now, collective_failed) or detector.find_failed(now) or detector.find_stalled(now)

    def _carry_out(self, verdict: Verdict) -> None:
        """Tell all, and give them a moment to end by it before this end of the connections is gone."""
        self._send({"verdict": asdict(verdict)})
        end = time.monotonic() + FAREWELL_S
        silent = verdict.ranks if verdict.silent else ()
        waited = {rank: connection for rank, connection in self._connections.items() if rank not in silent}
        while any(connection.is_open for connection in waited.values()) and time.monotonic() < end:
            for connection in waited.values():
                if connection.is_open:
                    connection.read()
            time.sleep(0.01)
        self._wait_for_writer(FAREWELL_S)
        self._act(verdict, True)

    def _is_done(self, now: float) -> bool:
        """In order, rank 0 leaves last: as long as it is there, no other can hang unseen."""
        if not self._said_goodbye:
            return False
        there = [one for rank, one in self._detector.ranks.items() if rank and one.left is None and not one.gone]
        if there and (self._own.left in (0, *STOPPED) or now - self._left_at <= FAREWELL_S):
            return False
        if self._for_main:
            self._act(QUIET_EXIT, False)
        return True

    def has_seen_failures(self) -> bool:
        return self._detector.has_seen_failures()
