"""data/batches/plan.py: plans of pools and of items, and the batches that are made of them."""

from __future__ import annotations

import numpy as np
import torch

from data.batches.batch import Batch
from data.batches.pairs import Array
from data.batches.plan import DIGESTS, ItemPlan, Plan, PoolPlan
from tests.samples import images_of, texts_of

OWNER = np.array([0, 0, 1, 2, 2, 3])
REGIONS, WORDS = [3, 1, 4, 2], [3, 5, 4, 6, 3, 4]


def read(plan: Plan) -> Batch:
    """The batch of a plan over six texts of four images, told apart by their lengths."""
    images, texts = images_of(REGIONS, 2), texts_of(WORDS, 9)
    numbers = torch.from_numpy(plan.images), torch.from_numpy(plan.texts)
    return plan.batch(images.select(numbers[0]), texts.select(numbers[1]), OWNER[plan.texts])


def of_anchors(plan: PoolPlan) -> tuple[Array, Array]:
    return plan.images[plan.pool_image], plan.texts[plan.pool_text]


def test_a_pool_plan_reads_each_image_and_text_once() -> None:
    image, text = np.array([[3, 0, 1], [1, 3, 0]]), np.array([[5, 5, 5], [2, 2, 2]])
    plan = PoolPlan.of(image, text, "t", slot=7)
    assert (plan.images.tolist(), plan.texts.tolist(), plan.slot) == ([0, 1, 3], [2, 5], 7)
    assert all(np.array_equal(a, b) for a, b in zip(of_anchors(plan), (image, text), strict=True))


def test_the_batch_of_pools_has_the_match_of_each_anchor_in_front() -> None:
    plan = PoolPlan.of(np.array([[2, 2], [1, 1]]), np.array([[4, 0], [2, 5]]), "i", slot=0)
    batch = read(plan)
    assert batch.pool is not None
    assert batch.pool.direction == "i"
    assert batch.positive[batch.pool.image, batch.pool.text].tolist() == [[True, False]] * 2
    assert [part.tolist() for part in batch.matches] == [[1, 0], [2, 1]]
    assert batch.texts.lengths[batch.pool.text].tolist() == [[3, 3], [4, 4]]
    assert batch.pool.frame.tolist() == [[3, 3], [4, 4]]


def test_an_item_keeps_its_place_and_a_repeated_image_is_there_twice() -> None:
    texts, keys = np.array([4, 0, 3]), np.array([70, 71, 72])
    batch = read(ItemPlan(OWNER[texts], texts, 0, 1, keys))
    assert batch.number.tolist() == [2, 0, 2]
    assert batch.images.lengths.tolist() == [4, 3, 4]
    assert batch.texts.lengths.tolist() == [3, 3, 6]
    assert (batch.sets, batch.pool, len(batch)) == (1, None, 9)
    assert batch.keys is not None
    assert batch.keys.tolist() == keys.tolist()
    assert batch.positive.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert [part.tolist() for part in batch.matches] == [[0, 1, 2]] * 2, "not the twins' other pairs"


def test_the_matches_of_three_sets_are_those_of_the_first() -> None:
    images, texts = np.array([0, 2, 1, 3, 2, 0]), np.array([1, 3, 4, 0, 2, 5])
    batch = read(ItemPlan(images, texts, 0, 3, np.array([5, 6])))
    assert batch.sets == 3
    assert [part.tolist() for part in batch.matches] == [[0, 1]] * 2
    assert batch.positive.diagonal().tolist() == [True, True, False, False, False, False]


def test_without_pools_and_items_every_true_pair_is_a_match() -> None:
    batch = Batch(images_of([1, 2], 2), texts_of([3, 3, 4], 9), torch.tensor([5, 8]), torch.tensor([8, 5, 8]))
    assert [part.tolist() for part in batch.matches] == [[1, 0, 1], [0, 1, 2]]


def test_every_image_and_text_of_items_has_a_key_of_its_own_that_its_place_decides() -> None:
    images, texts = np.array([0, 2, 1, 3, 2, 0]), np.array([1, 3, 4, 0, 2, 5])
    most = np.array([2**62 - 1, 2**62 + 2**40])
    keys = ItemPlan(images, texts, 0, 3, most).read_keys
    assert keys.dtype == np.int64
    assert (len(set(keys.tolist())), keys.min()) == (6, 2**62 - 1), "none runs over"
    assert keys[:2].tolist() == most.tolist() == ItemPlan(images[:2], texts[:2], 0, 1, most).read_keys.tolist()
    alone = ItemPlan(images[1::2], texts[1::2], 0, 3, most[1:]).read_keys
    assert keys[1::2].tolist() == alone.tolist(), "whoever else is in the batch"


def test_pools_have_no_keys() -> None:
    """Their images and texts are read once for many pairs."""
    assert PoolPlan.of(np.array([[3, 0]]), np.array([[5, 5]]), "t", slot=7).read_keys is None


def pools(first: int, end: int, swap: bool = False) -> PoolPlan:
    """The anchors of slots `first` to `end` of one fixed sequence; with `swap` two candidates differ."""
    rng = np.random.default_rng(0)
    image, text = rng.integers(50, size=(2, 12, 5))
    if swap:
        image[3, 1] += 1
    return PoolPlan.of(image[first:end], text[first:end], "t", slot=first)


def items(slots: Array) -> ItemPlan:
    image, text = np.random.default_rng(1).integers(50, size=(2, 12))
    return ItemPlan(image[slots], text[slots], int(slots[0]), 1, 1000 + slots)


def test_the_marks_of_parts_add_up_to_that_of_the_whole() -> None:
    assert (pools(0, 5).digest + pools(5, 12).digest) % DIGESTS == pools(0, 12).digest
    parts = [items(np.arange(first, first + 4)).digest for first in (0, 4, 8)]
    assert sum(parts) % DIGESTS == items(np.arange(12)).digest
    assert 0 <= pools(0, 12).digest < DIGESTS


def test_another_sample_or_another_place_is_another_mark() -> None:
    assert pools(0, 12, swap=True).digest != pools(0, 12).digest
    plan = pools(0, 12)
    other = PoolPlan(plan.images, plan.texts, 1, plan.pool_image, plan.pool_text, "t")
    turned = PoolPlan(plan.images, plan.texts, 0, plan.pool_image, plan.pool_text, "i")
    assert len({plan.digest, other.digest, turned.digest}) == 3
    swapped = np.array([1, 0, *range(2, 12)])
    ordered = items(np.arange(12))
    moved = ItemPlan(ordered.images[swapped], ordered.texts[swapped], 0, 1, ordered.keys)
    assert moved.digest != ordered.digest
