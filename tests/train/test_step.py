"""train/step.py: which negatives are hard, and what a step's loss is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batch import Batch
from model.matcher import MatchOut, Side
from model.objective.hinge import Config, Hinge, ranking_hinge
from tests.samples import batch_for, lively, small
from train.step import forward, hardest_negatives, mine


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
    hard, scores = mine(matcher, batch, 2, off)
    assert matcher.training
    assert not scores.requires_grad
    with torch.no_grad():
        exact = lively(small("uniter")).eval()(batch).scores["match"]
    assert torch.equal(scores, exact)
    assert hard.pool is not None
    assert hard.pool.image.shape == (4, 3)


def test_the_mined_batch_holds_the_match_and_the_hardest(batch: Batch) -> None:
    matcher = lively(small("uniter"))
    hard, scores = mine(matcher, batch, 2, off)
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
    losses = forward(matcher, Hinge(Config()), batch, 0.0, off)
    torch.manual_seed(3)
    expected = ranking_hinge(matcher(batch).scores["match"], 0.2).mean()
    torch.testing.assert_close(losses.total, expected)
    assert losses.terms.keys() == {"hinge"}
    losses.total.backward()
    assert matcher.rank.weight.grad is not None  # type: ignore[union-attr]


def test_terms_of_the_objective_and_of_the_matcher_are_summed(batch: Batch) -> None:
    out = MatchOut({"match": torch.zeros(4, 6)}, Side(), Side(), {"caption": torch.tensor(5.0)})
    matcher: Any = lambda _: out  # noqa: E731
    objective: Any = lambda *_: {"hinge": torch.tensor(2.0), "ratio": torch.tensor(0.5)}  # noqa: E731
    losses = forward(matcher, objective, batch, 0.5, off)
    assert losses.total == 7.5
    assert set(losses.terms) == {"hinge", "ratio", "caption"}


def test_the_objective_is_told_how_far_the_run_is(batch: Batch) -> None:
    seen = []

    def objective(out: MatchOut, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        seen.append(progress)
        return {"hinge": torch.zeros(())}

    matcher: Any = lambda _: SimpleNamespace(aux={}, scores={"match": torch.zeros(4, 6)})  # noqa: E731
    forward(matcher, objective, batch, 0.25, off)  # type: ignore[arg-type]
    assert seen == [0.25]
