"""train/mining/running_top_k.py: lists that surely hold the best, or say that they may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from train.mining.running_top_k import GROUP, RunningTopK, ceiling_bounds, group_maxima, nth_largest, rank_at
from train.mining.screen import Slack

NONE = 0.0


def exact(queries: int, fixed: float = NONE) -> Slack:
    return Slack(torch.full((queries,), fixed), 0.0)


def absorbed(scores: Tensor, most: int, capacity: int, tiles: int, slack: Slack | None = None,
             ceiling: Tensor | None = None, turned: bool = False) -> RunningTopK:
    """All of `scores [queries, p]`, whose columns come by as every `tiles`-th, in one layout or the other."""
    running = RunningTopK.empty(capacity, slack or exact(len(scores)), ceiling)
    for tile in range(tiles):
        part = scores[:, tile::tiles]
        part = torch.nn.functional.pad(part, (0, -part.shape[1] % GROUP), value=-torch.inf)
        part = part.T.contiguous().T if turned else part.contiguous()
        running.absorb(part, tile, tiles, rank_at(most, (tile + 1) / tiles))
    return running


def kept(running: RunningTopK, most: int, queries: int) -> tuple[list[set[int]], list[int]]:
    lists, _, redo = running.finish(torch.full((queries,), most))
    return [set(part.tolist()) for part in lists.chosen.split(lists.counts.tolist())], redo.tolist()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("most", "capacity", "tiles"), [(5, 74, 30), (40, 144, 7), (1, 66, 50), (30, 124, 1)])
def test_the_best_are_kept(most: int, capacity: int, tiles: int, turned: bool) -> None:
    scores = torch.randn(33, 2000, generator=torch.Generator().manual_seed(most))
    found, redo = kept(absorbed(scores, most, capacity, tiles, turned=turned), most, 33)
    best = scores.topk(most).indices
    assert len(redo) < 8
    for query in set(range(33)) - set(redo):
        assert set(best[query].tolist()) <= found[query]
    assert all(not found[query] for query in redo)


def test_what_may_be_among_the_best_is_kept_too() -> None:
    scores = torch.zeros(1, 64)
    scores[0, :20] = torch.arange(20) * 0.1
    found, redo = kept(absorbed(scores, 5, 64, 1, exact(1, 0.1)), 5, 1)
    assert not redo
    assert set(range(13, 20)) <= found[0], "1.5 is the fifth, and 1.3 may be truly 1.4 or above"
    assert 5 not in found[0]


def test_a_bet_that_was_lost_is_owned_up_to() -> None:
    """All the best are in the first tile, so its floor is too high for the rest."""
    scores = torch.rand(2, 800, generator=torch.Generator().manual_seed(0))
    scores[0, ::8] += 10.0
    scores[0, :160:8] += 10.0
    running = absorbed(scores, 60, 184, 8)
    running.floor[0] = 19.0
    assert kept(running, 60, 2)[1] == [0]


def test_a_list_that_overflows_with_equals_is_given_up() -> None:
    scores = torch.rand(3, 400, generator=torch.Generator().manual_seed(0))
    scores[1] = 1.0
    running = absorbed(scores, 10, 84, 4)
    assert kept(running, 10, 3)[1] == [1]
    assert torch.isinf(running.floor).tolist() == [False, True, False]


def test_a_query_with_too_few_candidates_is_redone_and_one_that_wants_none_is_not() -> None:
    scores = torch.full((2, 64), -torch.inf)
    scores[:, :3] = 1.0
    lists, _, redo = absorbed(scores, 5, 74, 1).finish(torch.tensor([5, 0]))
    assert redo.tolist() == [0]
    assert lists.counts.tolist() == [0, 0]


def test_a_ceiling_leaves_out_what_is_surely_above_and_does_not_count_what_may_be() -> None:
    scores = torch.arange(64.0)[None] / 64
    ceiling = torch.tensor([0.5], dtype=torch.float64)
    found, redo = kept(absorbed(scores, 4, 74, 1, exact(1, 0.02), ceiling), 4, 1)
    assert not redo
    assert not found[0] & set(range(34, 64)), "0.53 is truly 0.51 at least"
    assert set(range(27, 34)) <= found[0], "0.48 may be truly 0.5 or 0.46: the fourth that surely counts is 27 / 64"


def test_bars_lie_on_both_sides_of_the_ceiling() -> None:
    sure, over = ceiling_bounds(torch.tensor([1.0, -2.0]), Slack(torch.tensor([0.1, 0.2]), 0.01))
    assert ((sure < torch.tensor([0.9, -2.2])) & (over > torch.tensor([1.1, -1.8]))).all()


def test_packed_lists_are_taken_up_again() -> None:
    scores = torch.randn(5, 320, generator=torch.Generator().manual_seed(1))
    running = absorbed(scores[:, :160], 6, 76, 2)
    other = RunningTopK.empty(76, exact(5), None)
    other.unpack({f"x.{name}": value for name, value in running.packed().items()}, "x.")
    for one in (running, other):
        one.absorb(scores[:, 160:].contiguous(), 160, 1, 6)
    assert kept(running, 6, 5) == kept(other, 6, 5)


def test_a_bet_is_on_the_safe_side_and_never_below_the_last() -> None:
    assert rank_at(300, 1.0) == 300
    assert rank_at(300, 0.01) > 6
    ranks = [rank_at(60, share / 100) for share in range(1, 101)]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("turned", [False, True])
def test_the_largest_of_groups(turned: bool) -> None:
    scores = torch.randn(6, 4 * GROUP)
    laid = scores.T.contiguous().T if turned else scores
    peaks = group_maxima(laid.unflatten(1, (GROUP, -1)))
    assert torch.equal(peaks, scores.view(6, GROUP, 4).amax(1))
    assert (peaks.stride(0) < peaks.stride(1)) == turned


def test_nth_of_each_row() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0], [9.0, 7.0, 8.0]])
    assert nth_largest(values, torch.tensor([2, 2])).tolist() == [2.0, 8.0]
    assert nth_largest(values, torch.tensor([3, 1])).tolist() == [1.0, 9.0]
