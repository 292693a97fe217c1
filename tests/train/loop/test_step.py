"""train/loop/step.py: which negatives are hard, and what a step's loss is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batches.batch import Batch
from model.matcher import MatchOut, Side
from model.objective import Objective, Term
from model.objective.hinge import Config, Hinge, ranking_hinge
from model.objective.iais import Config as IaisConfig
from model.objective.iais import Iais
from tests.samples import batch_for, lively, small
from train.loop.step import compute_losses, hardest_negatives, mine_hard_negatives


def off() -> Any:
    return torch.autocast("cpu", enabled=False)


@pytest.fixture
def batch() -> Batch:
    return batch_for(small("uniter"), [3, 7, 1, 4, 2], [4, 9, 2, 5], anchors=4, size=6)


def test_the_hardest_are_the_highest_and_never_the_match() -> None:
    scores = torch.tensor([[9.0, 1, 5, 3, 2], [0.0, 4, -1, 4.5, 3]])
    assert hardest_negatives(scores, 2).tolist() == [[2, 3], [1, 3]]


@given(st.integers(1, 5), st.integers(2, 12), st.data())
def test_no_negative_left_out_is_harder(anchors: int, size: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, size - 1))
    numbers = data.draw(st.lists(st.integers(-9, 9), min_size=anchors * size, max_size=anchors * size))
    scores = torch.tensor(numbers, dtype=torch.float32).view(anchors, size)
    kept = hardest_negatives(scores, keep)
    assert kept.shape == (anchors, keep)
    for row, columns in zip(scores.tolist(), kept.tolist(), strict=True):
        assert columns == sorted(set(columns))
        assert 0 not in columns
        left = [row[at] for at in range(1, size) if at not in columns]
        assert not left or max(left) <= min(row[at] for at in columns)


def test_mining_scores_in_evaluation_mode_and_goes_back_to_training(batch: Batch) -> None:
    matcher = lively(small("uniter")).train()
    hard, scores = mine_hard_negatives(matcher, batch, 2, off)
    assert matcher.training
    assert not scores.requires_grad
    with torch.no_grad():
        exact = lively(small("uniter")).eval()(batch).scores["match"]
    assert torch.equal(scores, exact)
    assert hard.pool is not None
    assert hard.pool.image.shape == (4, 3)


def test_the_mined_batch_holds_the_match_and_the_hardest(batch: Batch) -> None:
    matcher = lively(small("uniter"))
    hard, scores = mine_hard_negatives(matcher, batch, 2, off)
    matcher.eval()
    with torch.no_grad():
        again = matcher(hard).scores["match"]
    columns = torch.nn.functional.pad(hardest_negatives(scores, 2), (1, 0))
    torch.testing.assert_close(again, scores.gather(1, columns), atol=1e-5, rtol=1e-5)
    assert len(hard.images) <= len(batch.images)
    assert len(hard.texts) <= len(batch.texts)


def test_the_loss_is_that_of_the_objective_in_training_mode(batch: Batch) -> None:
    matcher = lively(small("uniter")).train()
    torch.manual_seed(3)
    losses = compute_losses(matcher, Hinge(Config()), batch, 0.0, off, anchors=8)
    torch.manual_seed(3)
    expected = ranking_hinge(matcher(batch).scores["match"], 0.2).mean()
    torch.testing.assert_close(losses.terms["hinge"].value, expected)
    torch.testing.assert_close(losses.total, expected * 4 / 8)  # the pass holds four anchors of the update's eight
    assert losses.terms.keys() == {"hinge"}
    losses.total.backward()
    assert matcher.rank.weight.grad is not None  # type: ignore[union-attr]


def test_terms_of_the_objective_and_of_the_matcher_are_summed(batch: Batch) -> None:
    out = MatchOut({"match": torch.zeros(4, 6)}, Side(), Side(), {"caption": torch.tensor(5.0)})
    two, half, three = map(torch.tensor, (2.0, 0.5, 3.0))
    terms = {"hinge": Term(two), "ratio": Term(half, 4.0), "sum": Term(three, 2.0, summed=True)}
    losses = compute_losses(given(out), Fixed(terms), batch, 0.5, off, anchors=16)
    assert set(losses.terms) == {"hinge", "ratio", "sum", "caption"}
    # Four of sixteen anchors: a quarter of each mean, but four times the mean of what is summed.
    assert losses.total == (2.0 + 4.0 * 0.5 + 5.0) / 4 + 2.0 * 3.0 * 4


def test_the_objective_is_told_how_far_the_run_is(batch: Batch) -> None:
    objective = Fixed({"hinge": Term(torch.zeros(()))})
    compute_losses(given(SimpleNamespace(aux={}, scores={"match": torch.zeros(4, 6)})), objective, batch, 0.25, off, 4)
    assert objective.seen == [0.25]


def test_the_matcher_is_asked_for_what_the_objective_needs(batch: Batch) -> None:
    matcher = lively(small("uniter"))
    assert matcher(batch).attention is None
    objective = Iais(IaisConfig())
    losses = compute_losses(matcher, objective, batch, 0.5, off, anchors=4)
    assert losses.terms.keys() == {"hinge", "iais"}
    torch.testing.assert_close(losses.scores, matcher(batch).scores["match"].detach())


class Fixed(Objective):
    """Gives the terms it was made with, and remembers the progress it was told."""

    def __init__(self, terms: dict[str, Term]) -> None:
        self.terms = terms
        self.seen: list[float] = []

    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        self.seen.append(progress)
        return self.terms


def given(out: Any) -> Any:
    """A matcher that always gives this."""
    return lambda batch, needs: out
