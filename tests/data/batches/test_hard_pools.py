"""data/batches/hard_pools.py: pools that never hold a match, and never depend on who draws them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigError
from data.batches.false_negatives import FalseNegatives
from data.batches.hard_pools import DIRECTIONS, HardPools, draw_without, next_images, token_buckets
from data.batches.pairs import PairIndex
from data.batches.plan import PoolPlan
from tests.support import open_index, write_stores


@pytest.fixture
def pools(index: PairIndex) -> HardPools:
    return HardPools(index, negative_size=7, max_txt_len=-1, seed=3)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_pool_starts_with_its_match_and_holds_no_other(pools: HardPools, direction: str) -> None:
    index = pools.index
    for slot in range(120):
        images, texts = pools.pool(direction, slot)  # type: ignore[arg-type]
        right = index.owner[texts] == images
        assert right[0]
        assert not right[1:].any()
        assert len(images) == 8
        assert len(np.unique(texts if direction == "i" else images)) == 8


def test_negatives_are_drawn_evenly(index: PairIndex) -> None:
    pools = HardPools(index, 7, -1, 0)
    drawn = np.concatenate([pools.pool("t", slot)[0][1:] for slot in range(60 * len(index.texts))])
    counts = np.bincount(drawn, minlength=len(index.images))
    share = np.bincount(index.owner)
    expected = 60 * 7 * (len(index.texts) - share) / (len(index.images) - 1)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())


def test_candidates_stay_inside_their_source(stores: tuple[Path, Path], tmp_path: Path) -> None:
    index = open_index(stores, write_stores(tmp_path, images=20, name="b", seed=1))
    pools = HardPools(index, 5, -1, 0)
    for slot in range(len(index.texts)):
        images, texts = pools.pool("t", slot)
        assert len(set(index.image_source[images])) == 1
        images, texts = pools.pool("i", slot)
        assert len(set(index.text_source[texts])) == 1


def test_an_epoch_visits_every_anchor_once_and_the_next_in_another_order(pools: HardPools) -> None:
    count = len(pools.anchors)
    first = [pools.anchor("t", slot)[1] for slot in range(count)]
    second = [pools.anchor("t", slot)[1] for slot in range(count, 2 * count)]
    assert sorted(first) == sorted(second) == pools.anchors.tolist()
    assert first != second
    assert first != [pools.anchor("i", slot)[1] for slot in range(count)]


def same(a: PoolPlan, b: PoolPlan) -> bool:
    fields = ("images", "texts", "pool_image", "pool_text")
    return a.slot == b.slot and a.direction == b.direction and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in fields)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_out_the_passes_of_one_rank(pools: HardPools, size: int) -> None:
    alone = list(islice(pools.plans(0, 8, 2, 0, 1), 24))
    shared = [list(islice(pools.plans(0, 8, 2, rank, size), 24 // size)) for rank in range(size)]
    pairs = [plan for at in range(0, 24 // size, 2) for part in shared for plan in part[at : at + 2]]
    assert all(same(a, b) for a, b in zip(alone, pairs, strict=True))


def test_plans_go_on_from_any_slot(pools: HardPools) -> None:
    whole = list(islice(pools.plans(0, 4, 2, 0, 1), 12))
    rest = list(islice(pools.plans(8, 4, 2, 0, 1), 4))
    assert all(same(a, b) for a, b in zip(whole[8:], rest, strict=True))


def test_a_pool_larger_than_the_data_is_refused(index: PairIndex) -> None:
    with pytest.raises(ConfigError, match=r"negative_size=24.*lower it to 23 or less"):
        HardPools(index, 24, -1, 0)


def test_no_caption_short_enough_is_refused(index: PairIndex) -> None:
    with pytest.raises(ConfigError, match="max_txt_len=0"):
        HardPools(index, 3, 0, 0)


def spared(index: PairIndex, pairs: int = 40) -> FalseNegatives:
    image, text = np.random.default_rng(0).integers(0, (len(index.images), len(index.texts)), (pairs, 2)).T
    return FalseNegatives(image, text, index.owner, len(index.images))


def test_what_is_spared_is_never_drawn(index: PairIndex) -> None:
    pairs = spared(index)
    usual, sparing = HardPools(index, 15, -1, 0), HardPools(index, 15, -1, 0, pairs)
    met = 0
    for direction in DIRECTIONS:
        for slot in range(4 * len(index.texts)):
            before, after = usual.pool(direction, slot), sparing.pool(direction, slot)
            assert not pairs.hold(*after).any()
            met += pairs.hold(*before).any()
            assert len(set(zip(*after, strict=True))) == 16
            assert pairs.hold(*before).any() or all(map(np.array_equal, before, after)) or any(
                len(of) for of in (pairs.images_of(after[1][0]), pairs.texts_of(after[0][0])))
    assert met, "the usual pools hold some"


def test_a_pool_larger_than_what_is_left_is_refused(index: PairIndex) -> None:
    text = np.zeros(10, np.int64)
    pairs = FalseNegatives(np.arange(10), text, index.owner, len(index.images))
    with pytest.raises(ConfigError, match=rf"has only {23 - len(pairs)} wrong images for an anchor"):
        HardPools(index, 23, -1, 0, pairs)


@given(st.integers(1, 30), st.data())
def test_draw_without_never_draws_what_is_banned(n: int, data: st.DataObject) -> None:
    banned = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=n))), np.int64)
    size = data.draw(st.integers(0, n - len(banned)))
    drawn = draw_without(np.random.default_rng(0), n, size, banned)
    assert len(set(drawn.tolist())) == size
    assert not set(drawn.tolist()) & set(banned.tolist())
    assert all(0 <= value < n for value in drawn)


def test_following_wraps_round_and_wants_enough_images() -> None:
    assert next_images(np.array([1, 3]), 4, 3).tolist() == [[1, 2, 3], [3, 0, 1]]
    with pytest.raises(ConfigError, match="inf_minibatch_size=5"):
        next_images(np.array([0]), 4, 5)


def test_token_buckets_hold_every_item_once_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 60, 300)
    batches = token_buckets(lengths, rng.permutation(300), 512, bucket_size=100, size_multiple=4)
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert max(len(batch) * lengths[batch].max() for batch in batches) <= 512
    with pytest.raises(ConfigError, match="token budget"):
        token_buckets(lengths, np.arange(300), 100, size_multiple=4)
