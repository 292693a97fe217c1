"""Workers that do not begin."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from itertools import islice

import pytest
import torch

from config.errors import Failure
from data.batches import worker
from data.batches.hard_pools import HardPools
from data.batches.loader import Loader
from data.batches.pairs import PairIndex
from data.batches.prefetch_buffer import Capacity


def standing(times: int, patience_s: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the first so many workers stand before their first line; gives the number of each that is forked."""
    forked: list[int] = []
    serve, fork = worker.serve, worker.Worker._fork

    def counts(self: worker.Worker) -> None:
        forked.append(len(forked) + 1)
        fork(self)

    def stands(*given: object) -> None:
        while len(forked) <= times:  # as they were at the fork
            time.sleep(60)
        serve(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.Worker, "_fork", counts)
    monkeypatch.setattr(worker, "serve", stands)
    monkeypatch.setattr(worker, "BEGIN_S", patience_s)
    return forked


def batches(index: PairIndex, workers: int) -> list[torch.Tensor]:
    plans = islice(HardPools(index, 7, -1, 0).plans(0, 4, 2, 0, 1), 5)
    loader = Loader(index, plans, Capacity.of(index, 16, 16), workers, 2, torch.device("cpu"))
    return [batch.texts.values.clone() for _, batch in loader]


def test_a_worker_that_stands_is_replaced(index: PairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(index, 0)
    forked = standing(1, (0.5, 30.0), monkeypatch)
    got = batches(index, 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
    assert forked == [1, 2]


def test_where_none_begins_that_is_told(index: PairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    forked = standing(4, (0.05,) * 4, monkeypatch)
    with pytest.raises(Failure, match=r"4 reading workers, one after the other, did not begin.*--n_workers 0"):
        batches(index, 1)
    assert forked == [1, 2, 3, 4]
    assert multiprocessing.active_children() == []


def test_where_the_host_has_no_room_for_another_that_is_told(
    index: PairIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two: the first is ended too."""
    start, started = multiprocessing.context.ForkProcess.start, list[int]()

    def starts(self: multiprocessing.context.ForkProcess) -> None:
        if started:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(1)
        start(self)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", starts)
    with pytest.raises(Failure, match=r"could not be started \(Resource temporarily unavailable\); is memory short"):
        batches(index, 2)
    assert multiprocessing.active_children() == []


def test_whoever_leaves_at_once_ends_workers_that_stand(index: PairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(1, (0.05,), monkeypatch)
    reader = worker.Worker(index, [], None)
    worker.kill_all()
    reader._process.join(10)
    assert reader._process.exitcode == -signal.SIGKILL
    reader.close()
