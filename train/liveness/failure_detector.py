"""The failure detector: which rank is to blame when a group cannot go on, by the last heartbeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from config.errors import INTERRUPTED, REQUEUE
from train.distributed.progress import Heartbeat

GRACE_S = 2.0
"""How long a rank that failed on its own has been gone before others who have not failed alike are told of it."""
STOPPED = (REQUEUE, INTERRUPTED)
"""The exit codes of a group that was told to stop: all leave with it."""
START_S = 120.0
"""What stores, weights and libraries may take to load before the first update, even where an update may take less."""


@dataclass(frozen=True)
class Member:
    """A rank's process. `space`: equal for two ranks that see each other's process numbers."""

    rank: int
    host: str
    pid: int
    space: str

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.pid})"


@dataclass
class RankState:
    """What is known of a rank; moments are seconds of the detector's clock.

    moved: when it was last heard to have gone on.
    left: the exit code that it said goodbye with, `why` in words.
    gone: its connection broke.
    failed: what a collective failed with under it, and since when.
    """

    member: Member
    at: float
    moved: float
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    left: int | None = None
    left_at: float = 0.0
    why: str = ""
    gone: bool = False
    failed: str = ""
    failed_at: float = 0.0

    def beat(self, heartbeat: Heartbeat, now: float) -> None:
        """It is alive, and here."""
        if heartbeat.advances != self.heartbeat.advances:
            self.moved = now
        self.heartbeat, self.at = heartbeat, now


@dataclass(frozen=True)
class Verdict:
    """Whom the group ends for, in words.

    ranks: who is to blame; empty where nobody can be told apart.
    silent: they may still exist, unable to end themselves.
    """

    ranks: tuple[int, ...]
    text: str
    silent: bool = False


QUIET_EXIT = Verdict((), "")
"""Rank 0 has left to be started again, and so does everyone."""


class FailureDetector:
    """Looks at all ranks, or on a rank other than 0 at rank 0 and itself; rank 0 looks at the others.

    timeout_s: how long a rank may be silent, or without a sign of going on.
    """

    def __init__(self, members: Sequence[Member], now: float, timeout_s: float) -> None:
        self.ranks = {member.rank: RankState(member, now, now) for member in members}
        self._timeout_s = timeout_s

    def find_lost(self, now: float, collective_failed: bool) -> Verdict | None:
        """A rank that is gone, that left the others alone, or that is not heard any more.

        collective_failed: a collective has failed already, so whoever left before is to blame.
        """
        everyone = list(self.ranks.values())
        gone = [one for one in everyone if one.gone and one.left is None]
        if gone:
            return self._blame(gone, "lost ", ", last seen at", "its process is gone")
        left = [one for one in everyone if one.left is not None and (collective_failed or self._is_missed(one, now))]
        if left:
            return self._blame(left, "lost ", ", last seen at", describe_exit(left[0]))
        silent = [one for one in everyone if one.left is None and now - one.at > self._timeout_s]
        if silent:
            since = f"no sign of life for {now - silent[0].at:.0f} s"
            return self._blame(silent, "", " stalled at", since, silent=True)
        return None

    def _is_missed(self, one: RankState, now: float) -> bool:
        return one.left not in (0, *STOPPED) and now - one.left_at > GRACE_S

    def has_seen_failures(self) -> bool:
        """Whether a rank has left because it failed."""
        return any(one.left not in (None, 0, *STOPPED) for one in list(self.ranks.values()))

    def find_failed(self, now: float) -> Verdict | None:
        """A collective that failed though nobody is gone: once all ranks say so, or one has said so for a while."""
        here = [one for one in self.ranks.values() if one.left is None]
        failed = [one for one in here if one.failed]
        if not failed or (len(failed) < len(here) and now - min(one.failed_at for one in failed) <= GRACE_S):
            return None
        odd = _minority(failed, [one.heartbeat.sent for one in failed])
        sent = "; ".join(f"rank {one.member.rank} gave {one.heartbeat.sent}" for one in failed if one.heartbeat.sent)
        why = f"{odd[0].failed} ({sent})" if len({one.heartbeat.sent for one in failed}) > 1 else odd[0].failed
        return self._blame(odd, "", " failed at", why)

    def find_stalled(self, now: float) -> Verdict | None:
        """A rank that is alive but does not go on, told from those who only wait for it."""
        here = [one for one in self.ranks.values() if one.left is None]
        overdue = [one for one in here if now - one.moved > self._timeout_of(one)]
        if not overdue:
            return None
        since = f"nothing has gone on for {now - overdue[0].moved:.0f} s"
        idle = [one for one in overdue if not one.heartbeat.collective]
        if idle:
            return self._blame(idle, "", " stalled at", since)
        if len(overdue) < len(here):
            return None
        left = [one for one in self.ranks.values() if one.left is not None]
        if left:
            return self._blame(left, "lost ", ", last seen at", describe_exit(left[0]))
        odd = _minority(here, [one.heartbeat.collective for one in here])
        if len(odd) < len(here):
            why = f"the others wait in another collective (uneven data?), {since}"
            return self._blame(odd, "", " stalled at", why)
        return Verdict((), f"all ranks stalled at {here[0].heartbeat}: {since}")

    def _timeout_of(self, one: RankState) -> float:
        return self._timeout_s if one.heartbeat.step else max(self._timeout_s, START_S)

    def _blame(
        self, whom: Sequence[RankState], before: str, between: str, why: str, silent: bool = False
    ) -> Verdict:
        """Words about the first of them, how many more there are, and where the others stand."""
        first, ranks = whom[0], tuple(one.member.rank for one in whom)
        text = f"{before}{first.member}{between} {first.heartbeat}: {why}"
        if len(whom) > 1:
            text += f"; so did {len(whom) - 1} more (rank {', '.join(str(rank) for rank in ranks[1:9])})"
        waiting = [one for rank, one in self.ranks.items() if rank not in ranks and one.left is None and not one.gone]
        if waiting:
            text += f"; rank {waiting[0].member.rank} is at {waiting[0].heartbeat}"
        return Verdict(ranks, text, silent)


def describe_exit(one: RankState) -> str:
    """How a rank left, in words."""
    return f"it left with exit code {one.left}" + (f" ({one.why})" if one.why else "")


def _minority(ranks: Sequence[RankState], what: Sequence[str]) -> list[RankState]:
    """Those who differ from most of the others; of two equal halves the one without the first rank."""
    counts = Counter(what)
    most = max(counts.values())
    usual = next(one for one in what if counts[one] == most)
    return [rank for rank, one in zip(ranks, what, strict=True) if one != usual] or list(ranks)
