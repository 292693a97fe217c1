"""train/mining/exact.py: scores that nothing around them changes, and ties that fall by place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.mined import embeddings
from train.mining.exact import POOL_ROWS, Shortlists, dot_in_order, order_exactly, score_in_float64


def everyone(queries: int, pool: int) -> Shortlists:
    return Shortlists.of(torch.full((queries,), pool), torch.arange(pool).repeat(queries))


@pytest.mark.parametrize("width", [1, 2, 7, 64, 100])
def test_folded_products_are_those_of_float64(width: int) -> None:
    left, right = embeddings(700, 700, width)
    expected = (left.double() * right.double()).sum(1)
    torch.testing.assert_close(dot_in_order(left, right), expected, rtol=1e-14, atol=1e-14)


def test_the_fold_is_a_tree_whatever_is_beside() -> None:
    """((a + c) + (b + d)) for four numbers: with 2**53 and 1 another order gives another sum."""
    left = torch.tensor([[2.0**53, -(2.0**53), 1.0, 1.0], [1.0, 2.0**53, 1.0, -(2.0**53)]])
    assert dot_in_order(left, torch.ones(2, 4)).tolist() == [1.0, 2.0]
    assert dot_in_order(left[1:], torch.ones(1, 4)).tolist() == [2.0]
    many = torch.cat([torch.randn(1000, 4), left])
    assert dot_in_order(many, torch.ones(1002, 4))[-2:].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("width", [8, 128, 150, 256])
def test_doubled_products_of_a_pool_of_many_parts(width: int) -> None:
    queries, pool = embeddings(5, 2 * POOL_ROWS + 3, width)
    rng = np.random.default_rng(0)
    counts = torch.tensor([3, 0, 400, 1, 50])
    lists = Shortlists.of(counts, torch.from_numpy(rng.integers(0, len(pool), int(counts.sum()))))
    expected = (queries[lists.queries].double() * pool[lists.chosen].double()).sum(1)
    torch.testing.assert_close(score_in_float64(queries, pool, lists), expected, rtol=1e-13, atol=1e-13)


def test_equal_scores_are_ordered_by_place() -> None:
    queries, pool = embeddings(3, 40, 4, steps=2)
    pool[5], pool[30], pool[17] = pool[9], pool[9], pool[9]
    places, scores, there = order_exactly(queries, pool, everyone(3, 40), 40, float(pool.norm(dim=1).max()))
    expected = (queries.double() @ pool.double().T).sort(dim=1, descending=True, stable=True)
    assert torch.equal(places, expected.indices)
    assert torch.equal(scores, expected.values)
    assert there.tolist() == [40, 40, 40]


def test_the_order_of_the_short_list_does_not_matter() -> None:
    queries, pool = embeddings(4, 60, 5, steps=1)
    shuffled = torch.stack([torch.randperm(60) for _ in range(4)]).flatten()
    longest = float(pool.norm(dim=1).max())
    straight = order_exactly(queries, pool, everyone(4, 60), 20, longest)
    mixed = order_exactly(queries, pool, Shortlists.of(torch.full((4,), 60), shuffled), 20, longest)
    assert torch.equal(straight[0], mixed[0])


def test_what_is_above_the_ceiling_does_not_count() -> None:
    queries, pool = torch.eye(2), torch.tensor([[0.5, 1.0], [0.25, 2.0], [0.75, 3.0]])
    ceiling = torch.tensor([0.5, 0.0], dtype=torch.float64)
    places, scores, there = order_exactly(queries, pool, everyone(2, 3), 2, 4.0, ceiling)
    assert places.tolist() == [[0, 1], [-1, -1]]
    assert scores[0].tolist() == [0.5, 0.25]
    assert there.tolist() == [2, 0]


def test_joined_lists_keep_their_queries() -> None:
    one, other = Shortlists.of(torch.tensor([1, 2]), torch.tensor([7, 8, 9])), everyone(1, 2)
    joined = Shortlists.cat([one, other])
    assert joined.counts.tolist() == [1, 2, 2]
    assert joined.queries.tolist() == [0, 1, 1, 2, 2]
    assert joined.chosen.tolist() == [7, 8, 9, 0, 1]
