"""What every objective over pools promises; and its formula once more, as a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batches.batch import Batch
from model.matcher import MatchOut
from model.objective import Objective, build_objective, find_objective
from tests.alignment import plain_pairs, singular_of_words
from tests.contract.conftest import objectives_that_need
from tests.samples import batch_for, lively, small

OBJECTIVES = objectives_that_need("pools")
ANCHORS, SIZE = 4, 6
Rows = list[list[float]]


def hinge(rows: Rows) -> float:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    losses = [max(0.0, 0.2 + sigmoid(x) - sigmoid(row[0])) for row in rows for x in row[1:]]
    return sum(losses) / len(losses)


def infonce(rows: Rows) -> float:
    return sum(math.log(sum(math.exp(x) for x in row)) - row[0] for row in rows) / len(rows)


def iais(rows: Rows, out: MatchOut) -> float:
    """The hinge, and half way through the run e^-2.5 of the singular alignment of words."""
    assert out.attention is not None
    return hinge(rows) + math.exp(-2.5) * sum(map(singular_of_words, plain_pairs(out.attention))) / ANCHORS


LOOPS: dict[str, Callable[[Rows, MatchOut], float]] = {
    "hinge": lambda rows, _: hinge(rows),
    "infonce": lambda rows, _: infonce(rows),
    "iais": iais,
}
"""The formula of each objective with its default settings, written without tensors."""
MARGIN = {"hinge": 0.0, "infonce": 1e-6, "iais": 0.0}
"""What is left of the loss when the match is far ahead."""


def test_there_are_objectives() -> None:
    assert "hinge" in OBJECTIVES
    assert all(find_objective(name).__module__ == f"model.objective.{name}" for name in OBJECTIVES)


@pytest.fixture(params=OBJECTIVES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objective(name: str) -> Objective:
    return build_objective(find_objective(name).settings())  # type: ignore[call-arg]


@pytest.fixture
def out(objective: Objective) -> MatchOut:
    """The outcome of a small matcher on a batch with pools."""
    return outcome(objective, [4, 9, 3])


def outcome(objective: Objective, words: list[int]) -> MatchOut:
    """The same for captions of other lengths, their marks included."""
    batch = batch_for(small("uniter"), [3, 7, 1], words, anchors=ANCHORS, size=SIZE)
    with torch.no_grad():
        return lively(small("uniter"))(batch, objective.needs)


def batch() -> Batch:
    return batch_for(small("uniter"), [3, 7, 1], [4, 9, 3], anchors=ANCHORS, size=SIZE)


def total(objective: Objective, out: MatchOut, scores: Tensor) -> Tensor:
    """The loss, were these the scores of every head."""
    terms = objective(replace(out, scores=dict.fromkeys(out.scores, scores)), batch(), 0.5)
    return torch.stack([term.value * (1.0 if term.weight is None else term.weight) for term in terms.values()]).sum()


def some_scores(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return 2 * torch.randn(ANCHORS, SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_it_is_built_from_its_own_settings(name: str, objective: Objective) -> None:
    assert objective.settings.model_fields["name"].default == name


def test_it_comes_to_rest_where_it_says(objective: Objective, out: MatchOut) -> None:
    """Where all scores are alike, a term costs what `plateaus` tells; one whose gradient moves on tells nothing."""
    flat = torch.zeros(ANCHORS, SIZE, requires_grad=True)
    terms = objective(replace(out, scores=dict.fromkeys(out.scores, flat)), batch(), 1.0)
    plateaus = objective.plateaus(1.0)
    assert {key: terms[key].value.item() for key in plateaus} == pytest.approx(plateaus)
    assert bool(plateaus) == any("hinge" in key for key in terms)


def test_terms_are_named_scalars(objective: Objective, out: MatchOut) -> None:
    terms = objective(out, batch(), 0.0)
    assert terms
    assert all(isinstance(key, str) and term.value.shape == () for key, term in terms.items())


def test_it_agrees_with_a_plain_loop(name: str, objective: Objective, out: MatchOut) -> None:
    assert name in LOOPS, f"write the formula of {name} as a loop"
    for seed in range(5):
        scores = some_scores(torch.float64, seed)
        assert total(objective, out, scores).item() == pytest.approx(LOOPS[name](scores.tolist(), out), rel=1e-6)


def test_it_is_nothing_when_the_match_is_far_ahead(name: str, objective: Objective) -> None:
    # Captions of one word: there is nothing to align in them.
    out, scores = outcome(objective, [3, 3, 3]), some_scores()
    scores[:, 0] = 60
    scores[:, 1:] -= 60
    assert 0 <= total(objective, out, scores) <= MARGIN.get(name, 0.0)


def test_its_gradient_is_the_slope_in_float64(objective: Objective, out: MatchOut) -> None:
    scores = some_scores(torch.float64).requires_grad_()
    assert total(objective, out, scores).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: total(objective, out, x), scores)


def test_a_harder_negative_never_costs_less(objective: Objective, out: MatchOut) -> None:
    scores = some_scores()
    hardest = scores[:, 1:].argmax(1) + 1
    last: Any = None
    for step in torch.linspace(0, 6, 13):
        harder = scores.clone()
        harder[torch.arange(ANCHORS), hardest] += step
        loss = total(objective, out, harder)
        assert last is None or loss >= last
        last = loss
    assert last > total(objective, out, scores)


def test_a_better_match_never_costs_more(objective: Objective, out: MatchOut) -> None:
    scores = some_scores()
    losses = []
    for step in torch.linspace(-4, 4, 17):
        better = scores.clone()
        better[:, 0] += step
        losses.append(total(objective, out, better).item())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_anchors_and_negatives_may_stand_in_any_order(objective: Objective, out: MatchOut) -> None:
    scores = some_scores(torch.float64)
    turned = scores[torch.tensor([2, 0, 3, 1])][:, torch.tensor([0, 4, 2, 5, 1, 3])]
    torch.testing.assert_close(total(objective, out, turned), total(objective, out, scores))


def test_every_anchor_weighs_the_same(objective: Objective, out: MatchOut) -> None:
    """A mean: the same scores twice cost what they cost once, so that accumulation may cut a batch anywhere."""
    scores = some_scores(torch.float64)
    torch.testing.assert_close(total(objective, out, torch.cat([scores, scores])), total(objective, out, scores))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_computed_in_float32_of_half_precision_scores(
    dtype: torch.dtype, objective: Objective, out: MatchOut
) -> None:
    scores = some_scores().to(dtype)
    with torch.autocast("cpu", dtype):
        loss = total(objective, out, scores)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, total(objective, out, scores.float()))


def test_extreme_scores_stay_finite(objective: Objective, out: MatchOut) -> None:
    scores = some_scores() * 1e4
    scores.requires_grad_()
    loss = total(objective, out, scores)
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_it_is_pure(objective: Objective, out: MatchOut) -> None:
    scores = some_scores()
    kept = scores.clone()
    first, second = total(objective, out, scores), total(objective, out, scores)
    assert torch.equal(first, second)
    assert torch.equal(scores, kept)
