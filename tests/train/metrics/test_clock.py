"""train/metrics/clock.py: seconds by part, what is waited for others, and pauses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from train.distributed.progress import Progress
from train.metrics.clock import Clock, Lap, catch_up


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the clock sees, to be moved by hand."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_it_sums_parts_and_counts(hand: list[float]) -> None:
    clock = Clock()
    for _ in range(2):
        with clock("mine"):
            hand[0] += 3
        with clock("train"):
            hand[0] += 1
        clock.count("updates", 1)
    hand[0] += 0.5
    assert clock.lap() == Lap(8.5, 0, {"mine": 6, "train": 2}, {"updates": 2})


def test_a_pause_is_left_out_with_what_is_waited_in_it(hand: list[float]) -> None:
    progress = Progress()
    clock = Clock(progress)
    for seconds in (1, 2):
        with progress.in_collective("gradients"):
            hand[0] += seconds
        with clock.paused(), progress.in_collective("saved"):
            hand[0] += 1000
    assert clock.lap() == Lap(3, 3)


def test_a_pause_within_a_pause_is_a_part_of_it(hand: list[float]) -> None:
    clock = Clock()
    hand[0] += 1
    with clock.paused():
        with clock.paused():
            hand[0] += 1000
        hand[0] += 1000
        assert clock.so_far() == Lap(1)
        hand[0] += 1000
    hand[0] += 1
    assert clock.lap() == Lap(2)


def test_what_was_waited_before_the_clock_began_is_not_its_own(hand: list[float]) -> None:
    progress = Progress()
    with progress.in_collective("start"):
        hand[0] += 5
    clock = Clock(progress)
    hand[0] += 1
    assert clock.lap() == Lap(1, 0)


def test_a_lap_starts_anew_and_a_look_does_not(hand: list[float]) -> None:
    clock = Clock()
    with clock("mine"):
        hand[0] += 3
    clock.count("updates", 1)
    assert clock.so_far() == Lap(3, 0, {"mine": 3}, {"updates": 1})
    hand[0] += 1
    assert clock.lap() == Lap(4, 0, {"mine": 3}, {"updates": 1})
    hand[0] += 2
    assert clock.lap() == Lap(2)


def test_a_part_that_fails_is_counted_too(hand: list[float]) -> None:
    def fail() -> None:
        with clock("load"):
            hand[0] += 2
            raise OSError

    clock = Clock()
    with pytest.raises(OSError):  # noqa: PT011
        fail()
    assert clock.lap().spent == {"load": 2}


def test_threads_that_share_the_clock_share_the_time(hand: list[float]) -> None:
    clock = Clock()
    with clock.shared_by(4):
        for _ in range(4):
            with clock("load"):
                hand[0] += 2
    with clock("load"):
        hand[0] += 1
    assert clock.lap().spent == {"load": 3}


def test_threads_lose_nothing_of_each_other() -> None:
    clock = Clock()

    def work(_: int) -> None:
        for _ in range(2000):
            clock.count("images", 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert clock.lap().counts == {"images": 16000}


def test_a_device_is_waited_for_and_a_processor_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def synchronize(self) -> None:
            waited.append(self.device)

    monkeypatch.setattr("torch.cuda.current_stream", Stream)
    catch_up(torch.device("cpu"))
    catch_up(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]
