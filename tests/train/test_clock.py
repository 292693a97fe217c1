"""train/clock.py: seconds by part, and rates."""

from __future__ import annotations

import pytest

from train.clock import PARTS, Clock


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the clock sees, to be moved by hand."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_it_sums_parts_and_divides_by_updates(hand: list[float]) -> None:
    clock = Clock()
    for _ in range(2):
        with clock("mine"):
            hand[0] += 3
        with clock("train"):
            hand[0] += 1
        clock.count("updates", 1)
    rates = clock.read(1)
    assert rates["mine_s"] == 3
    assert rates["train_s"] == 1
    assert rates["load_s"] == 0
    assert {f"{part}_s" for part in PARTS} < rates.keys()


def test_rates_are_over_all_ranks_and_all_time(hand: list[float]) -> None:
    clock = Clock()
    clock.count("pairs", 30)
    clock.count("anchors", 6)
    hand[0] += 2
    rates = clock.read(4)
    assert rates["pairs_per_s"] == 60
    assert rates["anchors_per_s"] == 12


def test_a_pause_is_left_out_of_the_rates(hand: list[float]) -> None:
    clock = Clock()
    hand[0] += 1
    with clock.paused():
        hand[0] += 1000
    hand[0] += 1
    clock.count("pairs", 10)
    assert clock.read(1)["pairs_per_s"] == 5


def test_reading_starts_anew(hand: list[float]) -> None:
    clock = Clock()
    with clock("mine"):
        hand[0] += 3
    clock.count("updates", 1)
    clock.read(1)
    hand[0] += 1
    assert clock.read(1) == {f"{part}_s": 0 for part in PARTS} | {"pairs_per_s": 0, "anchors_per_s": 0}


def test_a_part_that_fails_is_counted_too(hand: list[float]) -> None:
    def fail() -> None:
        with clock("load"):
            hand[0] += 2
            raise OSError

    clock = Clock()
    with pytest.raises(OSError):  # noqa: PT011
        fail()
    assert clock.read(1)["load_s"] == 2
