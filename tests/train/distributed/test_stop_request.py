"""train/distributed/stop_request.py: signals that wait for an update, and those that do not have to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.ranks import on_ranks
from train.distributed.comm import Comm, Solo
from train.distributed.stop_request import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def answers() -> Iterator[list[tuple[str, int]]]:
    """What happens on signals outside: each is written down."""
    found: list[tuple[str, int]] = []
    before = {kind: signal.signal(kind, lambda number, _: found.append(("answered", number))) for kind in SIGNALS}
    yield found
    for kind, handler in before.items():
        signal.signal(kind, handler)


def told(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGALRM, 75),
                                              (signal.SIGINT, 130)])
def test_a_signal_waits_until_it_is_asked_for(number: int, code: int, answers: list[tuple[str, int]]) -> None:
    stop = StopRequest(Solo(), lambda: None)
    with stop.listening():
        told(number)
        assert (stop.by, stop.code) == (None, 0)
        stop.agree_async()()
    assert (stop.by, stop.code) == (number, code)
    assert answers == []


def test_words_name_the_signal_or_the_limit() -> None:
    found = []
    for number in SIGNALS:
        stop = StopRequest(Solo(), lambda: None)
        with stop.listening():
            told(number)
            stop.agree_async()()
        found.append(stop.reason)
    assert found == ["SIGTERM", "SIGUSR1", "the time limit", "SIGINT"]


def test_at_rest_a_signal_is_answered_at_once_after_what_is_written_is_written(answers: list[tuple[str, int]]) -> None:
    stop = StopRequest(Solo(), lambda: answers.append(("settled", 0)))
    with stop.listening(), stop.interruptible():
        told(signal.SIGUSR1)
        assert answers == [("settled", 0), ("answered", signal.SIGUSR1)]


def test_a_signal_that_came_before_the_rest_is_answered_there(answers: list[tuple[str, int]]) -> None:
    stop = StopRequest(Solo(), lambda: None)
    with stop.listening():
        told(signal.SIGTERM)
        assert answers == []
        with stop.interruptible():
            assert answers == [("answered", signal.SIGTERM)]


def test_after_the_rest_signals_wait_again(answers: list[tuple[str, int]]) -> None:
    stop = StopRequest(Solo(), lambda: None)
    with stop.listening():
        with stop.interruptible():
            pass
        told(signal.SIGTERM)
        assert answers == []
        stop.agree_async()()
    assert stop.by == signal.SIGTERM


def test_outside_signals_are_answered_as_before(answers: list[tuple[str, int]]) -> None:
    with StopRequest(Solo(), lambda: None).listening():
        pass
    told(signal.SIGTERM)
    told(signal.SIGINT)
    assert answers == [("answered", signal.SIGTERM), ("answered", signal.SIGINT)]


def test_a_second_interrupt_interrupts() -> None:
    stop = StopRequest(Solo(), lambda: None)
    with stop.listening():
        told(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            told(signal.SIGINT)


def test_where_nobody_answers_the_process_ends() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    stop = StopRequest(Solo(), lambda: None)
    with stop.listening(), stop.interruptible(), pytest.raises(SystemExit) as left:
        told(signal.SIGUSR1)
    assert left.value.code == 75


def test_all_ranks_stop_where_one_was_told() -> None:
    def work(comm: Comm) -> tuple[int | None, int]:
        stop = StopRequest(comm, lambda: None)
        if comm.rank == 1:
            stop.request(signal.SIGUSR1)
        stop.agree_async()()
        return stop.by, stop.code

    assert on_ranks(3, work) == [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGTERM, 75)]


def test_all_ranks_regroup_where_one_has_noticed() -> None:
    def work(comm: Comm) -> tuple[bool, int | None]:
        comm.changed = comm.rank == 2
        stop = StopRequest(comm, lambda: None)
        stop.agree_async()()
        return stop.regroup, stop.by

    assert on_ranks(3, work) == [(True, None)] * 3


@pytest.mark.parametrize("number", SIGNALS)
def test_what_was_told_after_the_last_question_is_answered_at_the_end(
    number: int, answers: list[tuple[str, int]]
) -> None:
    """The run has saved then; nothing that comes after, such as a long evaluation, may swallow it."""
    stop = StopRequest(Solo(), lambda: None)
    with stop.listening():
        stop.agree_async()()
        told(number)
        assert stop.pending == number
        assert answers == []
    assert answers == [("answered", number)]


def test_what_was_obeyed_is_not_answered_again(answers: list[tuple[str, int]]) -> None:
    stop = StopRequest(Solo(), lambda: None)
    with stop.listening():
        told(signal.SIGTERM)
        stop.agree_async()()
    assert (stop.pending, answers) == (0, [])


def test_a_group_that_breaks_leaves_what_was_told_to_the_next(answers: list[tuple[str, int]]) -> None:
    first, second = StopRequest(Solo(), lambda: None), StopRequest(Solo(), lambda: None)
    with suppress(RuntimeError), first.listening():
        told(signal.SIGALRM)
        raise RuntimeError("broken")
    assert answers == []
    second.request(first.pending)
    second.agree_async()()
    assert second.reason == "the time limit"
