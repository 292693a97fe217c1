"""model/objective/triplet.py: the hinge over items, option by option; contract/ has what all of its kind promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.objective.triplet import Config, Triplet, rivals
from tests.items import item_batch, item_outcome, random_scores

SCORES = torch.tensor([[0.5, 0.4, 0.1], [0.6, 0.7, 0.2], [0.35, 0.0, 0.3]], dtype=torch.float64)


def terms(scores: Tensor, owner: list[int] | None = None, progress: float = 0.5, **options: Any) -> dict[str, Tensor]:
    found = Triplet(Config(**options))(item_outcome(scores, owner), item_batch(len(scores)), progress)
    return {name: term.value for name, term in found.items()}


def plain(scores: Tensor, owner: list[int] | None = None, margin: float = 0.2, max_violation: bool = True,
          mask_same_image: bool = True) -> dict[str, float]:
    """The formula, pair by pair."""
    n, of = len(scores), owner or list(range(len(scores)))
    total = {"online_i": 0.0, "online_t": 0.0}
    for i in range(n):
        others = [j for j in range(n) if j != i and not (mask_same_image and of[j] == of[i])]
        for way, negatives in (("i", scores[i].tolist()), ("t", scores[:, i].tolist())):
            each = [max(0.0, margin + negatives[j] - scores[i, i].item()) for j in others] or [0.0]
            total[f"online_{way}"] += max(each) if max_violation else sum(each)
    return total


def test_both_directions_of_a_batch_that_a_reader_can_check() -> None:
    """Rows: .5 against .4, .7 against .6, .3 against .35. Columns: .5 against .6, .7 against .4, .3 against .2."""
    found = terms(SCORES)
    assert found["online_i"].item() == pytest.approx(0.1 + 0.1 + 0.25)
    assert found["online_t"].item() == pytest.approx(0.3 + 0 + 0.1)


@pytest.mark.parametrize("options", [
    {}, {"margin": 0.5}, {"margin": 0.0}, {"max_violation": False}, {"mask_same_image": False},
    {"max_violation": False, "mask_same_image": False}])
def test_each_option_is_the_formula_pair_by_pair(options: dict[str, Any]) -> None:
    scores, owner = random_scores(6, 6), [4, 1, 4, 2, 1, 4]
    found = {name: value.item() for name, value in terms(scores, owner, **options).items()}
    assert found == pytest.approx(plain(scores, owner, **options))
    assert options == {} or found != pytest.approx(plain(scores, owner)), "the option changes something"


def test_the_hardest_alone_may_count_from_a_share_of_the_run_on() -> None:
    scores = random_scores(6, 6)
    hardest, everyone = terms(scores), terms(scores, max_violation=False)
    assert hardest != everyone
    for progress, expected in ((0.0, everyone), (0.29, everyone), (0.3, hardest), (1.0, hardest)):
        assert terms(scores, progress=progress, hardest_from=0.3) == expected
    assert terms(scores, progress=1.0, hardest_from=0.3, max_violation=False) == everyone


def test_the_loss_may_rise_over_a_share_of_the_run() -> None:
    """The terms stay what they are; their weight rises, and is logged."""
    def at(progress: float, **options: Any) -> dict[str, Any]:
        return Triplet(Config(**options))(item_outcome(SCORES), item_batch(3), progress)

    full = at(0.0)
    assert set(full) == {"online_i", "online_t"}
    assert all(term.weight is None for term in full.values()), "without a ramp nothing is weighed"
    for progress, weight in ((0.0, 0.0), (0.05, 0.25), (0.2, 1.0), (0.7, 1.0)):
        found = at(progress, ramp=0.2)
        for name, term in full.items():
            assert found[name].weight == pytest.approx(weight)
            assert found[name].value == term.value
            assert found[name].share(1, 1).item() == pytest.approx(weight * term.value.item())
        assert found["ramp"].value.item() == pytest.approx(weight)
        assert not found["ramp"].counted
    with pytest.raises(ValueError, match="ramp"):
        Config(ramp=1.5)


def test_a_batch_of_one_image_has_no_negatives_unless_twins_are() -> None:
    scores = random_scores(3, 3).requires_grad_()
    for options in ({}, {"max_violation": False}):
        loss = torch.stack(list(terms(scores, [7, 7, 7], **options).values())).sum()
        assert loss.item() == 0
        assert torch.autograd.grad(loss, scores)[0].tolist() == torch.zeros(3, 3).tolist()
    assert terms(scores, [7, 7, 7], mask_same_image=False)["online_i"] > 0


def test_only_the_hardest_negative_has_a_gradient() -> None:
    scores = SCORES.clone().requires_grad_()
    torch.stack(list(terms(scores).values())).sum().backward()
    assert scores.grad is not None
    # Rows blame (0, 1), (1, 0), (2, 0) and columns (1, 0), nobody, (1, 2); each spares its own match.
    assert scores.grad.tolist() == [[-2, 1, 0], [2, -1, 1], [1, 0, -2]]


def test_negatives_of_very_low_scores_are_still_the_hardest() -> None:
    """Whoever is no negative is below all that are, however low these lie."""
    found = rivals(item_outcome(torch.full((3, 3), -50.0) + torch.eye(3), [0, 1, 1]), 0.2, True)
    assert found.of_image[0] == found.of_text[0] == -50
    assert found.of_image[1] == -50


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        Config(margin=-0.1)


def test_images_against_other_texts_than_their_own_are_no_items() -> None:
    out = item_outcome(random_scores(2, 2))
    assert out.positive is not None
    object.__setattr__(out, "positive", out.positive[:1])
    with pytest.raises(ValueError, match="compares the items of a batch"):
        Triplet(Config())(out, item_batch(2), 0.0)
