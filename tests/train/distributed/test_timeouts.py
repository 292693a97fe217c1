"""train/distributed/timeouts.py: waits that end, and leave signals answered."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from train.distributed.timeouts import run_with_timeout


def test_the_result_is_that_of_the_call() -> None:
    assert run_with_timeout(60, lambda: 7) == 7


def test_an_error_is_that_of_the_call() -> None:
    def fails() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        run_with_timeout(60, fails)


def test_a_call_that_takes_too_long_is_left_behind() -> None:
    free = threading.Event()
    with pytest.raises(TimeoutError):
        run_with_timeout(0.01, free.wait)
    free.set()


def test_no_time_left_is_too_long() -> None:
    free = threading.Event()
    with pytest.raises(TimeoutError):
        run_with_timeout(-1.0, free.wait)
    free.set()


def test_signals_are_answered_meanwhile() -> None:
    def answered(*_: object) -> None:
        raise InterruptedError("answered")

    before = signal.signal(signal.SIGALRM, answered)
    free = threading.Event()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        begun = time.monotonic()
        with pytest.raises(InterruptedError, match="answered"):
            run_with_timeout(60, free.wait)
        assert time.monotonic() - begun < 30
    finally:
        free.set()
        signal.signal(signal.SIGALRM, before)
