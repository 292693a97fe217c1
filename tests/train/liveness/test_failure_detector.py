"""train/liveness/failure_detector.py: who is to blame, from the last heartbeat of each rank."""

from __future__ import annotations

import pytest

from config.errors import REQUEUE
from train.distributed.progress import Heartbeat
from train.liveness.failure_detector import GRACE_S, START_S, FailureDetector, Member

PATIENCE_S = 8.0


def group_at(*spots: tuple[int, str], at: float = 0.0) -> FailureDetector:
    """A group whose ranks were heard at these steps and collectives, at one moment."""
    made = FailureDetector([Member(rank, f"n{rank}", 100 + rank, "s") for rank in range(len(spots))], 0.0, PATIENCE_S)
    for one, (step, collective) in zip(made.ranks.values(), spots, strict=True):
        one.beat(Heartbeat(step, collective, advances=1), at)
    return made


def keep_beating(group: FailureDetector, now: float) -> None:
    for one in group.ranks.values():
        one.beat(one.heartbeat, now)


def test_nobody_is_blamed_while_all_go_on() -> None:
    group = group_at((5, "stop"), (5, ""))
    for now in range(100):
        for rank, one in group.ranks.items():
            one.beat(Heartbeat(5 + now, "stop" if rank else "", advances=now), float(now))
        found = group.find_lost(now, collective_failed=True), group.find_failed(now), group.find_stalled(now)
        assert found == (None, None, None)


def test_a_rank_whose_process_is_gone_is_lost_at_once() -> None:
    group = group_at((5, ""), (5, "stop"), (4, ""))
    group.ranks[2].gone = True
    verdict = group.find_lost(0.1, collective_failed=False)
    assert verdict is not None
    assert verdict.ranks == (2,)
    assert not verdict.silent
    assert verdict.text == ("lost rank 2 (host n2, process 102), last seen at step 4 outside of collectives: "
                            "its process is gone; rank 0 is at step 5 outside of collectives")


def test_a_rank_that_is_not_heard_any_more_is_stalled_and_may_still_exist() -> None:
    group = group_at((5, "stop"), (5, "gradient.a"))
    group.ranks[0].beat(group.ranks[0].heartbeat, PATIENCE_S)
    assert group.find_lost(PATIENCE_S, collective_failed=False) is None
    group.ranks[0].beat(group.ranks[0].heartbeat, PATIENCE_S + 1)
    verdict = group.find_lost(PATIENCE_S + 1, collective_failed=False)
    assert verdict is not None
    assert (verdict.ranks, verdict.silent) == ((1,), True)
    assert verdict.text == ("rank 1 (host n1, process 101) stalled at step 5 in gradient.a: no sign of life for 9 s; "
                            "rank 0 is at step 5 in stop")


def test_a_rank_that_lives_outside_of_collectives_and_does_not_go_on_is_stalled() -> None:
    group = group_at((5, "stop"), (5, ""))
    keep_beating(group, PATIENCE_S + 1)
    verdict = group.find_stalled(PATIENCE_S + 1)
    assert verdict is not None
    assert (verdict.ranks, verdict.silent) == ((1,), False)
    why = "nothing has gone on for 9 s; rank 0 is at step 5 in stop"
    assert f"stalled at step 5 outside of collectives: {why}" in verdict.text


def test_who_waits_for_a_rank_that_works_is_not_stalled() -> None:
    group = group_at((5, "stop"), (5, ""))
    for now in range(1, 30):
        keep_beating(group, float(now))
        group.ranks[1].beat(Heartbeat(5, "", advances=now + 1), float(now))
        assert group.find_stalled(float(now)) is None


def test_before_the_first_update_loading_may_take_longer() -> None:
    group = group_at((0, "barrier.claimed"), (0, ""))
    keep_beating(group, START_S)
    assert group.find_stalled(START_S) is None
    keep_beating(group, START_S + 1)
    assert group.find_stalled(START_S + 1) is not None


@pytest.mark.parametrize(("names", "odd"), [
    (("a", "b"), (1,)), (("a", "b", "b"), (0,)), (("a", "b", "a", "a"), (1,)), (("a", "b", "c", "a"), (1, 2))])
def test_ranks_that_wait_in_different_collectives_are_told_apart(names: tuple[str, ...], odd: tuple[int, ...]) -> None:
    group = group_at(*[(5, name) for name in names])
    keep_beating(group, PATIENCE_S + 1)
    verdict = group.find_stalled(PATIENCE_S + 1)
    assert verdict is not None
    assert verdict.ranks == odd
    assert "the others wait in another collective (uneven data?)" in verdict.text
    others = next(rank for rank in range(len(names)) if rank not in odd)
    assert verdict.text.endswith(f"; rank {others} is at step 5 in {names[others]}")
    assert (f"so did {len(odd) - 1} more (rank 2)" in verdict.text) == (len(odd) > 1)


def test_where_all_wait_in_the_same_collective_nobody_is_named() -> None:
    group = group_at((5, "stop"), (5, "stop"))
    keep_beating(group, PATIENCE_S + 1)
    verdict = group.find_stalled(PATIENCE_S + 1)
    assert verdict is not None
    assert (verdict.ranks, verdict.text) == ((), "all ranks stalled at step 5 in stop: nothing has gone on for 9 s")


@pytest.mark.parametrize("code", [0, REQUEUE])
def test_a_rank_that_left_in_order_is_missed_by_who_waits_for_it(code: int) -> None:
    group = group_at((5, "stop"), (5, ""))
    group.ranks[1].left, group.ranks[1].why = code, "SystemExit"
    assert group.find_lost(1000.0, collective_failed=False) is not None, "rank 0 itself is silent then"
    keep_beating(group, PATIENCE_S + 1)
    assert group.find_lost(PATIENCE_S + 1, collective_failed=False) is None
    seen = "lost rank 1 (host n1, process 101), last seen at step 5 outside of collectives"
    for verdict in (group.find_lost(PATIENCE_S + 1, collective_failed=True), group.find_stalled(PATIENCE_S + 1)):
        assert verdict is not None
        assert verdict.text == f"{seen}: it left with exit code {code} (SystemExit); rank 0 is at step 5 in stop"


def test_a_rank_that_failed_is_missed_unless_all_fail_alike() -> None:
    group = group_at((5, ""), (5, ""))
    one = group.ranks[1]
    one.left, one.left_at, one.why, one.gone = 3, 1.0, "DataError: a: gone", True
    assert group.has_seen_failures()
    assert group.find_lost(1.0 + GRACE_S, collective_failed=False) is None
    verdict = group.find_lost(1.1 + GRACE_S, collective_failed=False)
    assert verdict is not None
    assert "it left with exit code 3 (DataError: a: gone); rank 0 is at" in verdict.text
    assert group.find_lost(1.1, collective_failed=True) is not None, "at once where a collective has failed for it"


def test_a_collective_that_failed_everywhere_is_told_in_the_words_of_its_library() -> None:
    group = group_at((5, "gradient.a"), (5, "gradient.a"))
    for rank, one in group.ranks.items():
        one.heartbeat = Heartbeat(5, "gradient.a", sent=f"[{rank + 2}] float32")
    group.ranks[1].failed, group.ranks[1].failed_at = "HorovodInternalError: mismatch {x}", 1.0
    assert group.find_failed(1.1) is None
    group.ranks[0].failed, group.ranks[0].failed_at = "HorovodInternalError: mismatch {x}", 1.2
    verdict = group.find_failed(1.3)
    assert verdict is not None
    assert verdict.text == (
        "rank 1 (host n1, process 101) failed at step 5 in gradient.a: HorovodInternalError: mismatch {x} "
        "(rank 0 gave [2] float32; rank 1 gave [3] float32); rank 0 is at step 5 in gradient.a")


def test_a_collective_that_failed_on_one_rank_is_told_after_a_while() -> None:
    group = group_at((5, "gradient.a"), (5, "gradient.a"))
    group.ranks[1].failed, group.ranks[1].failed_at = "RuntimeError: no", 1.0
    assert group.find_failed(1.0 + GRACE_S) is None
    verdict = group.find_failed(1.1 + GRACE_S)
    assert verdict is not None
    assert verdict.text.startswith("rank 1 (host n1, process 101) failed at step 5 in gradient.a: RuntimeError: no;")
