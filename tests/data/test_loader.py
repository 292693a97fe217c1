"""data/loader.py: the same batches with any number of workers, and errors that arrive."""

from __future__ import annotations

import os
import signal
from itertools import islice
from pathlib import Path

import pytest
import torch

from config.errors import DataError, Failure
from data.batch import Batch
from data.images import ImageStore
from data.loader import Capacity, Loader
from data.negatives import HardPools, Plan
from data.pairs import PairIndex
from tests.support import RULE


def loader(index: PairIndex, workers: int, count: int = 9) -> Loader:
    plans = islice(HardPools(index, 7, -1, 0).plans(0, 4, 2, 0, 1), count)
    return Loader(index, plans, Capacity.of(index, 16, 16), workers, 2, torch.device("cpu"))


def copied(batch: Batch) -> list[torch.Tensor]:
    return [batch.images.features.values.clone(), batch.images.boxes.clone(), batch.texts.values.clone(), batch.owner]


def test_any_number_of_workers_reads_the_same_batches(index: PairIndex) -> None:
    reference = [copied(batch) for _, batch in loader(index, 0)]
    assert len(reference) == 9
    for workers in (1, 3):
        got = [copied(batch) for _, batch in loader(index, workers)]
        for a, b in zip(reference, got, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_holds_what_its_plan_says(index: PairIndex, stores: tuple[Path, Path]) -> None:
    store = ImageStore(stores[1], RULE)
    for plan, batch in loader(index, 2, 4):
        assert batch.pool is not None
        assert batch.positive[batch.pool.image[:, 0], batch.pool.text[:, 0]].all()
        for at, image in enumerate(plan.images):
            values = batch.images.select(torch.tensor([at])).features.values
            assert torch.equal(values, torch.from_numpy(store.read(index.images[image]).features))


class Broken(PairIndex):
    """An index whose third image cannot be read."""

    def __init__(self, index: PairIndex) -> None:
        self.__dict__.update(vars(index))

    def read_images(self, images: object, features: object, boxes: object) -> None:
        raise DataError(f"image {images[0]}: damaged")  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reading_error_reaches_the_trainer_by_name(index: PairIndex, workers: int) -> None:
    with pytest.raises(DataError, match=r"image \d+: damaged"):
        next(iter(loader(Broken(index), workers)))


def test_a_killed_worker_is_noticed(index: PairIndex) -> None:
    source = loader(index, 1, 9)
    batches = iter(source)
    next(batches)
    os.kill(source._workers[0]._process.pid or 0, signal.SIGKILL)
    with pytest.raises(Failure, match="reading worker died"):
        list(batches)


def test_capacity_is_enough_for_the_largest_choice(index: PairIndex) -> None:
    capacity = Capacity.of(index, 3, len(index.texts))
    assert capacity.regions == sorted(index.regions)[-1] + sorted(index.regions)[-2] + sorted(index.regions)[-3]
    assert capacity.words == index.words.sum()
    assert isinstance(next(iter(loader(index, 0)))[0], Plan)
