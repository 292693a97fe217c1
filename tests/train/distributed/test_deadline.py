"""train/distributed/deadline.py and config/durations.py: when a process is told that its time is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from config.durations import seconds
from train.distributed.deadline import END, LEAD_S, set_alarm


@pytest.fixture(autouse=True)
def no_alarm_is_left() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("span", "found"), [("7200", 7200), ("90m", 5400), ("3h55m", 14100), ("1d12h", 129600),
                                             ("45s", 45), ("2h30", 7230), (" 1h ", 3600)])
def test_spans_are_read_as_people_write_them(span: str, found: int) -> None:
    assert seconds(span) == found


@pytest.mark.parametrize("span", ["", "soon", "0", "-5", "5h3d", "1.5h", "h", "1:30:00"])
def test_other_words_are_refused(span: str) -> None:
    with pytest.raises(ValueError, match="is no span of time; write it like 3h55m"):
        seconds(span)


def test_no_limit_sets_no_alarm() -> None:
    assert set_alarm("", {}) is None
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_alarm_rings_after_the_span() -> None:
    assert set_alarm("2h", {}) == 7200
    assert 7100 < signal.getitimer(signal.ITIMER_REAL)[0] <= 7200


def test_the_scheduler_is_given_a_lead() -> None:
    left = set_alarm("", {END: str(int(time.time()) + 10_000)})
    assert left is not None
    assert 10_000 - LEAD_S - 5 < left <= 10_000 - LEAD_S


def test_of_a_short_job_a_tenth_is_the_lead() -> None:
    left = set_alarm("", {END: str(int(time.time()) + 100)})
    assert left is not None
    assert 85 < left <= 90


def test_whatever_comes_first_counts() -> None:
    end = {END: str(int(time.time()) + 10_000)}
    assert set_alarm("1h", end) == 3600
    assert set_alarm("1d", end) != 86400


def test_a_job_that_should_be_over_is_told_at_once() -> None:
    rung = []
    signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    set_alarm("", {END: "1000"})
    end = time.monotonic() + 10
    while not rung and time.monotonic() < end:
        time.sleep(0.001)
    assert rung == [signal.SIGALRM]
