"""data/batches/loader.py: the same batches with any number of workers, and errors that arrive."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import DataError, Failure
from data.batches.augment import WordAugment
from data.batches.batch import Batch
from data.batches.hard_pools import HardPools
from data.batches.items import Items
from data.batches.loader import Loader
from data.batches.offline_negatives import Offline
from data.batches.pairs import PairIndex, Source
from data.batches.plan import ItemPlan, Plan
from data.batches.prefetch_buffer import Capacity
from data.stores.image_store import ImageStore
from data.stores.image_writer import ImageWriter
from data.stores.picture_store import PictureView
from data.stores.text_store import TextStore
from tests.drawn import write_picture_store
from tests.items import random_candidates
from tests.pieces import write_pieces
from tests.support import DIM, RULE, open_index, write_stores


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


def item_batches(index: PairIndex, workers: int, items: int = 10, count: int = 12) -> list[tuple[Plan, Batch]]:
    """Batches of items with their offline negatives, over more than two epochs; copied, so that they last."""
    source = Items(index, -1, 0, Offline(index, random_candidates(index), 10, 5, "shared", 0))
    plans, capacity = islice(source.plans(0, items, 0, 1), count), Capacity.of_items(index, 3 * items)
    batches = Loader(index, plans, capacity, workers, 2, torch.device("cpu"))
    every = torch.arange(3 * items)
    return [(plan, replace(batch, images=batch.images.select(every), texts=batch.texts.select(every)))
            for plan, batch in batches]


def test_items_are_read_in_three_sets_and_repeated_images_each_time(
    index: PairIndex, stores: tuple[Path, Path]
) -> None:
    images, repeated = ImageStore(stores[1], RULE), 0
    for plan, batch in item_batches(index, 0):
        assert (len(batch.images), len(batch.texts), batch.sets, batch.pool) == (30, 30, 3, None)
        assert batch.number.tolist() == plan.images.tolist()
        assert batch.owner.tolist() == index.owner[plan.texts].tolist()
        repeated += len(plan.images) - len(set(plan.images))
        for at, (image, text) in enumerate(zip(plan.images, plan.texts, strict=True)):
            features = batch.images.slice(at, at + 1).features.values
            assert torch.equal(features, torch.from_numpy(images.read(index.images[image]).features))
            assert batch.texts.lengths[at] == index.words[text]
    assert repeated


def test_any_number_of_workers_reads_the_same_items(index: PairIndex) -> None:
    reference = item_batches(index, 0)
    for workers in (1, 3):
        for (_, ours), (_, theirs) in zip(item_batches(index, workers), reference, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(copied(ours), copied(theirs), strict=True))
            assert ours.keys is not None
            assert theirs.keys is not None
            assert torch.equal(ours.keys, theirs.keys)


def test_features_of_single_precision_without_boxes_arrive_to_the_bit(
    stores: tuple[Path, Path], tmp_path: Path
) -> None:
    rng, expected = np.random.default_rng(0), {}
    with ImageWriter(tmp_path / "img", rule=RULE, features_only="float32") as writer:
        for name in ImageStore(stores[1], RULE).names:
            expected[name] = rng.standard_normal((rng.integers(2, 8), 5)).astype(np.float32)
            writer.add_features(name, expected[name])
    index = open_index((stores[0], tmp_path / "img"))
    for plan, batch in item_batches(index, 1, count=3):
        wanted = np.concatenate([expected[index.images[image]] for image in plan.images])
        assert batch.images.features.values.dtype == torch.float32
        assert np.array_equal(batch.images.features.values, wanted)
        assert not batch.images.boxes.any()


def test_stores_of_both_precisions_are_read_together_in_the_wider(stores: tuple[Path, Path], tmp_path: Path) -> None:
    texts, _ = write_stores(tmp_path, name="b")
    with ImageWriter(tmp_path / "single", rule=RULE, features_only="float32") as writer:
        for name in ImageStore(tmp_path / "b_img", RULE).names:
            writer.add_features(name, np.full((3, DIM), 1 / 3, np.float32))
    index, half = open_index(stores, (texts, tmp_path / "single")), ImageStore(stores[1], RULE)
    plan = ItemPlan(np.array([0, 30]), np.array([0, 60]), 0, 1, np.arange(2))
    (_, batch), = Loader(index, iter([plan]), Capacity.of_items(index, 2), 0, 1, torch.device("cpu"))
    first, second = (batch.images.slice(at, at + 1).features.values for at in range(2))
    assert first.dtype == second.dtype == torch.float32
    assert torch.equal(first, torch.from_numpy(half.read(index.images[0]).features).float())
    assert (second == np.float32(1 / 3)).all()


@pytest.fixture
def pictures(tmp_path: Path) -> PairIndex:
    """Twelve small pictures, parts of which are read, with two captions of WordPieces each."""
    names = [f"{number}.jpg" for number in range(12)]
    write_picture_store(tmp_path / "img", names)
    texts = TextStore(write_pieces(tmp_path / "pieces.db", names))
    return PairIndex([Source(texts, PictureView(6, smallest_crop=0.3).open(tmp_path / "img"))])


Item = tuple[list[int], list[int]]
"""Pixels of an image and the ids of its text."""


def changed(index: PairIndex, items: int, rank: int = 0, size: int = 1, first: int = 0, workers: int = 0,
            count: int = 6) -> list[list[Item]]:
    """What one rank reads in each update, all sets of an item after the other."""
    source = Items(index, -1, 0, Offline(index, random_candidates(index), 10, 5, "shared", 0))
    plans = islice(source.plans(first, items * size, rank, size), count)
    batches = Loader(index, plans, Capacity.of_items(index, 3 * items), workers, 2, torch.device("cpu"),
                     augment=WordAugment.of(index, 0.7))
    order, found = np.arange(3 * items).reshape(3, items).T.ravel(), []
    for _, batch in batches:
        pixels = batch.images.features.values.flatten(1).tolist()
        texts = [part.tolist() for part in batch.texts.values.split(batch.texts.lengths.tolist())]
        found.append([(pixels[at], texts[at]) for at in order])
    return found


def test_pictures_and_altered_captions_come_as_a_batch(pictures: PairIndex) -> None:
    source = Items(pictures, -1, 0)
    batches = Loader(pictures, source.plans(0, 8, 0, 1), Capacity.of_items(pictures, 8), 0, 2, torch.device("cpu"),
                     augment=WordAugment.of(pictures, 0.7))
    plan, batch = next(iter(batches))
    assert batch.images.features.values.shape == (8, 3, 6, 6)
    assert batch.images.features.values.dtype == torch.uint8
    assert batch.images.lengths.tolist() == [1] * 8
    assert not batch.images.boxes.any()
    assert int(batch.texts.offsets[-1]) == len(batch.texts.values)
    before = pictures.words[plan.texts]
    after = batch.texts.lengths.numpy()
    assert (after <= before).all()
    assert (after < before).any()
    firsts, lasts = batch.texts.values[batch.texts.offsets[:-1]], batch.texts.values[batch.texts.offsets[1:] - 1]
    assert (firsts.tolist(), lasts.tolist()) == ([2] * 8, [3] * 8)


@pytest.mark.parametrize("size", [2, 8])
def test_ranks_read_the_crops_and_captions_of_one_rank(pictures: PairIndex, size: int) -> None:
    alone = changed(pictures, 8)
    ranks = [changed(pictures, 8 // size, rank, size) for rank in range(size)]
    assert [list(chain.from_iterable(update)) for update in zip(*ranks, strict=True)] == alone


def test_a_resume_reads_the_crops_and_captions_that_would_have_come(pictures: PairIndex) -> None:
    assert changed(pictures, 8, first=24, count=3) == changed(pictures, 8)[3:]


def test_workers_read_the_crops_and_captions_that_the_trainer_would(pictures: PairIndex) -> None:
    assert changed(pictures, 8, workers=2) == changed(pictures, 8)


def test_an_image_and_its_caption_are_changed_anew_each_time(pictures: PairIndex) -> None:
    seen = changed(pictures, 24, count=2)  # an epoch each
    views = {tuple(pixels) for update in seen for pixels, _ in update}
    assert len(views) > 0.9 * 2 * 72, "of 12 pictures"


def test_where_nothing_is_altered_captions_keep_their_lengths(pictures: PairIndex) -> None:
    source = Items(pictures, -1, 0)
    plain = Loader(pictures, source.plans(0, 8, 0, 1), Capacity.of_items(pictures, 8), 0, 2, torch.device("cpu"))
    plan, batch = next(iter(plain))
    assert batch.texts.lengths.tolist() == pictures.words[plan.texts].tolist()


def test_a_batch_read_later_does_not_change_the_lengths_of_an_earlier_one(pictures: PairIndex) -> None:
    batches = iter(Loader(pictures, Items(pictures, -1, 0).plans(0, 4, 0, 1), Capacity.of_items(pictures, 4), 0, 1,
                          torch.device("cpu"), augment=WordAugment.of(pictures, 0.7)))
    _, batch = next(batches)
    before = batch.texts.lengths.tolist()
    for _ in range(3):
        next(batches)
    assert batch.texts.lengths.tolist() == before


class Broken(PairIndex):
    """An index whose third image cannot be read."""

    def __init__(self, index: PairIndex) -> None:
        self.__dict__.update(vars(index))

    def read_images(self, images: object, features: object, boxes: object, keys: object = None) -> None:
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
