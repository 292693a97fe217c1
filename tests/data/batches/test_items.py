"""data/batches/items.py: the endless sequence of captions of in-batch training, and who takes which part of it."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from config.errors import ConfigError
from data.batches.items import Items
from data.batches.offline_negatives import Offline
from data.batches.pairs import PairIndex
from data.batches.plan import ItemPlan
from tests.items import random_candidates


@pytest.fixture
def items(index: PairIndex) -> Items:
    """48 captions; nothing offline."""
    return Items(index, max_txt_len=-1, seed=3)


@pytest.fixture
def offline(index: PairIndex) -> Items:
    return Items(index, -1, 3, Offline(index, random_candidates(index), 10, 5, "shared", 3))


def taken(plans: list[ItemPlan]) -> list[list[int]]:
    """Everything that plans say, item by item: its key, and its images and texts in each set."""
    return [[plan.keys[at], *plan.images[at :: len(plan.keys)], *plan.texts[at :: len(plan.keys)]]
            for plan in plans for at in range(len(plan.keys))]


def test_every_caption_comes_once_an_epoch_with_its_image_and_in_a_new_order(items: Items) -> None:
    count, index = len(items.anchors), items.index
    epochs, texts = items.captions(np.arange(3 * count))
    assert epochs.tolist() == np.repeat(range(3), count).tolist()
    orders = texts.reshape(3, count).tolist()
    assert all(sorted(order) == list(range(len(index.texts))) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] != Items(index, -1, seed=4).captions(np.arange(count))[1].tolist()
    plan = items.plan(np.arange(5, 20))
    assert plan.texts.tolist() == orders[0][5:20]
    assert plan.images.tolist() == index.owner[plan.texts].tolist()
    assert (plan.sets, plan.slot) == (1, 5)


def test_only_captions_that_are_short_enough_are_taken(index: PairIndex) -> None:
    items = Items(index, 3, 0)
    _, texts = items.captions(np.arange(len(items.anchors)))
    assert sorted(texts) == np.flatnonzero(index.words <= 5).tolist()
    assert 0 < len(texts) < len(index.texts)
    with pytest.raises(ConfigError, match="max_txt_len=0: no caption is that short; raise it"):
        Items(index, 0, 0)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("kind", ["items", "offline"])
def test_ranks_share_out_the_items_of_one_rank(kind: str, size: int, request: pytest.FixtureRequest) -> None:
    """Seven updates of 16 items over 48 captions: two epochs end inside."""
    items: Items = request.getfixturevalue(kind)
    alone = taken(list(islice(items.plans(0, 16, 0, 1), 7)))
    parts = [islice(items.plans(0, 16, rank, size), 7) for rank in range(size)]
    shared = taken([plan for update in zip(*parts, strict=True) for plan in update])
    assert shared == alone
    assert len(alone) == 7 * 16


def test_plans_go_on_from_any_slot(offline: Items) -> None:
    whole = taken(list(islice(offline.plans(0, 6, 0, 1), 12)))
    for slot in (0, 6, 33, 47, 48, 60):
        assert taken(list(islice(offline.plans(slot, 6, 0, 1), 2))) == whole[slot : slot + 12]


def test_a_batch_across_the_end_of_an_epoch_takes_from_both(items: Items) -> None:
    count = len(items.anchors)
    (plan,) = islice(items.plans(count - 3, 8, 0, 1), 1)
    first, second = (items.captions(np.arange(epoch * count, (epoch + 1) * count))[1] for epoch in range(2))
    assert plan.texts.tolist() == [*first[-3:], *second[:5]]


def test_keys_are_of_the_place_and_the_seed_alone(items: Items, offline: Items) -> None:
    keys = items.plan(np.arange(100)).keys
    assert keys.dtype == np.int64
    assert len(set(keys.tolist())) == 100
    assert np.array_equal(offline.plan(np.arange(40, 60)).keys, keys[40:60])
    assert not set(keys.tolist()) & set(Items(items.index, -1, seed=4).plan(np.arange(100)).keys.tolist())


def test_offline_sets_stand_item_by_item(offline: Items) -> None:
    """First the pair, then its wrong image and wrong text, then the image of the wrong text with one of the image."""
    index, candidates = offline.index, offline.offline.candidates  # type: ignore[union-attr]
    plan = offline.plan(np.arange(30, 60))
    assert (plan.sets, offline.sets) == (3, 3)
    (image, image_off, image_off2), (text, text_off, text_off2) = plan.images.reshape(3, 30), plan.texts.reshape(3, 30)
    assert text.tolist() == offline.captions(np.arange(30, 60))[1].tolist()
    assert image.tolist() == index.owner[text].tolist()
    for at in range(30):
        assert text_off[at] in candidates.i2t[image[at], :10]
        assert image_off[at] in candidates.t2i[text[at], :2]
    assert image_off2.tolist() == index.owner[text_off].tolist()
    assert image_off.tolist() == index.owner[text_off2].tolist()
