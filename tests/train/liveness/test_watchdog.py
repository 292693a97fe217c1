"""train/liveness/watchdog.py: ranks that are threads of this process, watching each other over real sockets.

What it does to real processes is seen in tests/faults/test_stalls.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.errors import DataError, Failure
from tests.processes import wait_until
from tests.ranks import Meeting, ThreadRank
from train.distributed.comm import Comm, Solo
from train.liveness import monitor as posts
from train.liveness import watchdog as watches
from train.liveness.monitor import AwakeClock
from train.liveness.watchdog import Watchdog, exit_code_of_error, first_line

# A verdict ends a process; here it ends a thread.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
Rank = Callable[[Comm, Watchdog], None]


class Ranks:
    """Ranks that watch each other; `ended` are the exit codes of those that a verdict has ended."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.folder, self.timeout_s = folder, timeout_s
        self.ended: list[int] = []
        self.let_go = threading.Event()

    def run(self, *works: Rank, elastic: bool = False) -> None:
        """Each rank does its work; returns when all have left or been ended."""
        meeting = Meeting(len(works))

        def one(rank: int) -> None:
            comm = ThreadRank(meeting, rank)
            comm.means_lost_rank = lambda error: "not every rank came" in str(error)  # type: ignore[method-assign]
            try:
                with Watchdog("itm_hn", comm, self.folder, self.timeout_s, elastic) as watch:
                    works[rank](comm, watch)
            except (AssertionError, DataError, SystemExit):
                return

        threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        self.let_go.set()
        assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    """Ranks of which nobody waits for more than two seconds."""
    group = Ranks(tmp_path, 2.0)

    def end(code: int) -> None:
        group.ended.append(code)
        raise SystemExit  # ends the thread that watches, and with it every wait for it

    monkeypatch.setattr(watches.os, "_exit", end)
    yield group
    group.let_go.set()


def idle(comm: Comm, watch: Watchdog) -> None:
    """Nothing to do."""


def test_ranks_that_leave_in_order_are_not_missed(ranks: Ranks, capfd: pytest.CaptureFixture[str]) -> None:
    order: list[int] = []

    def slow(comm: Comm, watch: Watchdog) -> None:
        for step in range(1, 20):
            comm.progress.begin_step(step)
            time.sleep(0.05)
        order.append(1)

    ranks.run(idle, slow, idle)
    assert (order, ranks.ended, capfd.readouterr().err) == ([1], [], "")


def test_a_rank_that_does_not_go_on_ends_all_in_one_line_with_their_stacks(
    ranks: Ranks, capfd: pytest.CaptureFixture[str]
) -> None:
    def stalls(comm: Comm, watch: Watchdog) -> None:
        comm.progress.begin_step(7)
        wait_until(lambda: len(ranks.ended) == 2, 15)

    def waits(comm: Comm, watch: Watchdog) -> None:
        comm.progress.begin_step(7)
        with comm.progress.in_collective("gradient.a"):
            wait_until(lambda: len(ranks.ended) == 2, 15)

    start = time.monotonic()
    ranks.run(waits, stalls)
    assert time.monotonic() - start < 15
    assert ranks.ended == [1, 1]
    line, = capfd.readouterr().err.splitlines()
    host, pid = os.uname().nodename, os.getpid()
    assert line.startswith(f"itm_hn, rank 0: rank 1 (host {host}, process {pid}) stalled at step 7 outside of "
                           "collectives: nothing has gone on for ")
    assert line.endswith(f"; rank 0 is at step 7 in gradient.a; stacks in {ranks.folder}/log*.txt; "
                         "what is saved is whole; start again with the same command")
    for name in ("log.txt", "log.rank1.txt"):
        log = (ranks.folder / name).read_text()
        assert "stalled at step 7" in log
        assert "test_watchdog.py" in log, "the stacks show where"


def test_a_rank_that_leaves_while_another_waits_for_it_is_named_at_once(
    ranks: Ranks, capfd: pytest.CaptureFixture[str]
) -> None:
    def waits(comm: Comm, watch: Watchdog) -> None:
        comm.progress.begin_step(3)
        with comm.progress.in_collective("stop"):
            time.sleep(0.3)
            raise AssertionError("not every rank came")

    def leaves(comm: Comm, watch: Watchdog) -> None:
        comm.progress.begin_step(3)
        raise SystemExit(0)

    ranks.timeout_s = 60.0
    ranks.run(waits, leaves)
    assert ranks.ended == [1]
    said = capfd.readouterr().err
    assert "last seen at step 3 outside of collectives: it left with exit code 0 (SystemExit: 0); " in said
    assert "; rank 0 is at step 3 in stop; " in said


def test_an_error_of_one_rank_is_told_by_the_others_and_one_of_all_is_not(
    ranks: Ranks, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(comm: Comm, watch: Watchdog) -> None:
        raise DataError("a: {gone}\nsecond line")

    ranks.timeout_s = 60.0
    ranks.run(fails, fails)
    assert (ranks.ended, capfd.readouterr().err) == ([], "")
    for failing, works in ((1, (lambda *_: wait_until(lambda: bool(ranks.ended), 15), fails)),
                           (0, (fails, lambda *_: wait_until(lambda: bool(ranks.ended), 15)))):
        ranks.ended.clear()
        ranks.run(*works)
        said = capfd.readouterr().err
        assert ranks.ended == [1]
        assert said.startswith(f"itm_hn, rank {1 - failing}: lost rank {failing} (host")
        assert "it left with exit code 3 (DataError: a: {gone});" in said


def test_a_signal_of_one_rank_is_heard_once_by_every_other(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[int | None, int]] = []
    monkeypatch.setattr(posts.signal, "pthread_kill", lambda *given: heard.append(given))

    def tells(comm: Comm, watch: Watchdog) -> None:
        watch.forward_signal(signal.SIGUSR1)
        watch.forward_signal(signal.SIGUSR1)
        watch.wait_for_exit(15)

    def goes(comm: Comm, watch: Watchdog) -> None:
        wait_until(lambda: len(heard) >= 2, 15)
        watch.forward_signal(signal.SIGUSR1)  # as its own answer to the signal does
        time.sleep(0.5)

    ranks.run(goes, tells, lambda _, watch: watch.wait_for_exit(15))
    assert heard == [(threading.main_thread().ident, signal.SIGUSR1)] * 2, "ranks 0 and 2; rank 1 had it already"
    assert ranks.ended == []


def test_all_leave_with_the_code_of_rank_0(ranks: Ranks, capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int | None] = []

    def first(comm: Comm, watch: Watchdog) -> None:
        assert watch.wait_for_exit(0.05) is None
        watch.code = 75

    def waits(comm: Comm, watch: Watchdog) -> None:
        codes.append(watch.wait_for_exit(15))
        watch.code = 75

    ranks.run(first, waits, lambda *_: wait_until(lambda: bool(ranks.ended), 15))
    assert codes == [75]
    assert ranks.ended == [75], "rank 2 could not hear it: its thread took it along"
    assert capfd.readouterr().err == ""


def test_rank_0_leaves_for_a_signal_though_it_waits_for_who_got_it(ranks: Ranks) -> None:
    still = [True] * 20

    def first(comm: Comm, watch: Watchdog) -> None:
        comm.progress.writes = lambda: bool(still) and still.pop()
        with comm.progress.in_collective("stop"):
            wait_until(lambda: bool(ranks.ended), 15)

    def told(comm: Comm, watch: Watchdog) -> None:
        watch.forward_signal(signal.SIGUSR1)
        assert watch.wait_for_exit(15) == 75
        watch.code = 75

    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        ranks.timeout_s = 60.0
        ranks.run(first, told)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (still, ranks.ended) == ([], [75])


def test_an_elastic_group_goes_on_and_can_be_watched_anew(ranks: Ranks, capfd: pytest.CaptureFixture[str]) -> None:
    def stays(comm: Comm, watch: Watchdog) -> None:
        comm.progress.begin_step(3)
        for _ in range(200):
            comm.progress.advance()
            time.sleep(0.02)

    def stalls(comm: Comm, watch: Watchdog) -> None:
        comm.progress.begin_step(3)
        wait_until(lambda: bool(ranks.ended), 15)

    ranks.run(stays, stalls, elastic=True)
    assert ranks.ended == [1], "only the one to blame"
    assert capfd.readouterr().err.endswith("; going on without\n")

    def anew(comm: Comm, watch: Watchdog) -> None:
        watch.stop()
        with Watchdog("itm_hn", comm, ranks.folder, 60.0):
            comm.progress.begin_step(4)

    ranks.ended.clear()
    ranks.run(anew, anew)
    assert (ranks.ended, capfd.readouterr().err) == ([], "")


def test_a_rank_that_cannot_reach_rank_0_is_told_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "connect", lambda *_: None)
    meeting, said = Meeting(2), []

    def one(rank: int) -> None:
        with pytest.raises(Failure) as caught:
            Watchdog("itm_hn", ThreadRank(meeting, rank), tmp_path, 60.0)
        said.append(str(caught.value))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(said) == 2
    assert all("rank 1 (host" in text and "cannot reach rank 0 (host" in text for text in said)
    wait_until(lambda: not any(thread.name == "watch" for thread in threading.enumerate()), 15)
    assert all("HOROVOD_GLOO_IFACE, or do without a watch: --stall_timeout 0" in text for text in said)


@pytest.mark.parametrize(("size", "timeout"), [(1, 60.0), (2, 0.0)])
def test_a_group_that_is_not_watched_has_no_thread(size: int, timeout: float, tmp_path: Path) -> None:
    before, comm = threading.active_count(), Solo()
    comm.size = size
    with Watchdog("itm_hn", comm, tmp_path, timeout) as watch:
        assert threading.active_count() == before
        watch.forward_signal(signal.SIGUSR1)
        watch.await_verdict(RuntimeError("x"))
        watch.wait_for_failures()
        watch.stop()
        assert watch.wait_for_exit(60) is None


def test_time_in_which_a_process_was_stopped_does_not_count() -> None:
    clock = AwakeClock(most_s=0.05)
    time.sleep(0.3)
    assert 0 < clock.tick() <= 0.05
    time.sleep(0.01)
    assert 0.06 <= clock.tick() <= 0.1


@pytest.mark.parametrize(("error", "code"), [
    (SystemExit(), 0), (SystemExit(7), 7), (SystemExit("x"), 1), (KeyboardInterrupt(), 130), (DataError("x"), 3),
    (Failure("x"), 1), (ValueError("x"), 1)])
def test_the_exit_code_of_an_error(error: BaseException, code: int) -> None:
    assert exit_code_of_error(error) == code


def test_an_error_is_told_in_a_line() -> None:
    assert first_line(ValueError("\n a\nb")) == "ValueError: a"
    assert first_line(KeyError()) == "KeyError: "
    assert len(first_line(ValueError("x" * 1000))) == 300
