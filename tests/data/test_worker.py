"""Workers that do not begin."""

from __future__ import annotations

import mmap
import time
from itertools import islice

import pytest
import torch

from config.errors import Failure
from data import worker
from data.loader import Loader
from data.negatives import HardPools
from data.pairs import PairIndex
from data.slot import Capacity


def standing(times: int, patience_s: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> mmap.mmap:
    """Let so many workers stand before their first line; gives what the forked ones count themselves in."""
    begun, serve = mmap.mmap(-1, 1), worker.serve

    def stands(*given: object) -> None:
        begun[0] += 1
        while begun[0] <= times:
            time.sleep(0.01)
        serve(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "serve", stands)
    monkeypatch.setattr(worker, "BEGIN_S", patience_s)
    return begun


def batches(index: PairIndex, workers: int) -> list[torch.Tensor]:
    plans = islice(HardPools(index, 7, -1, 0).plans(0, 4, 2, 0, 1), 5)
    loader = Loader(index, plans, Capacity.of(index, 16, 16), workers, 2, torch.device("cpu"))
    return [batch.texts.values.clone() for _, batch in loader]


def test_a_worker_that_stands_is_replaced(index: PairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(index, 0)
    begun = standing(1, (0.5, 30.0), monkeypatch)
    got = batches(index, 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
    assert begun[0] == 2


def test_where_none_begins_that_is_told(index: PairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    standing(250, (0.05,) * 4, monkeypatch)
    with pytest.raises(Failure, match=r"4 reading workers, one after the other, did not begin.*--n_workers 0"):
        batches(index, 1)
