"""model/objective/distance_weighted.py: chances, keyed draws and costs; contract/ has what all of its kind promise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.objective import Term
from model.objective.distance_weighted import Config, DistanceWeighted, chances, costs, drawn, mixed, uniform
from tests.items import item_batch, item_outcome, random_scores


def alone(n: int, *same: tuple[int, int]) -> Tensor:
    """`positive` of items of different images, but for the pairs named."""
    positive = torch.eye(n, dtype=torch.bool)
    for a, b in same:
        positive[a, b] = positive[b, a] = True
    return positive


def terms(scores: Tensor, owner: list[int] | None = None, progress: float = 0.5, keys: Tensor | None = None,
          **options: Any) -> dict[str, Term]:
    out = item_outcome(scores, owner)
    out = replace(out, keys=torch.arange(len(scores)) if keys is None else keys)
    return DistanceWeighted(Config(**options))(out, item_batch(len(scores)), progress)


def plain(row: list[float], barred: list[int], d: int, cut_off: float, farthest: float) -> list[float]:
    """The formula, one candidate after the other."""
    logs, near = [], []
    for column, score in enumerate(row):
        distance = math.nan if score > 1 else max(math.sqrt(2 - 2 * score), cut_off)
        room = 1 - distance**2 / 4
        fine = room > 0 and column not in barred
        logs.append((2 - d) * math.log(distance) - (d - 3) / 2 * math.log(room) if fine else 0.0)
        near.append(distance < farthest and column not in barred)
    weights = [math.exp(value - max(logs)) if kept else 0.0 for value, kept in zip(logs, near, strict=True)]
    return [weight / (sum(weights) + 1e-20) for weight in weights]


@pytest.mark.parametrize("options", [
    {}, {"dimension": 16}, {"cut_off": 0.9}, {"farthest": 1.2}, {"dimension": 3}, {"farthest": 2.0, "dimension": 8}])
def test_chances_are_the_formula_candidate_by_candidate(options: dict[str, Any]) -> None:
    scores, positive = 1.9 * random_scores(8, 8), alone(8, (1, 4), (2, 6))
    config = Config(**options)
    found = chances(scores, positive, config)
    for row in range(8):
        barred = positive[row].nonzero()[:, 0].tolist()
        expected = plain(scores[row].tolist(), barred, config.dimension, config.cut_off, config.farthest)
        assert found[row].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_scores_above_one_have_no_distance_and_are_not_drawn() -> None:
    scores = torch.tensor([[1.9, 1.2, 0.3, -1.5], [0.0] * 4, [0.0] * 4, [0.0] * 4], dtype=torch.float64)
    assert chances(scores, alone(4), Config())[0].tolist() == [0, 0, 1, 0]


def test_nearer_than_the_cut_off_all_are_equally_likely() -> None:
    scores = torch.tensor([[1.0, 0.99, 0.95, 0.9]] * 4, dtype=torch.float64)
    assert chances(scores, alone(4), Config())[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


def test_what_is_out_of_reach_can_still_outweigh_all_others_as_published() -> None:
    """The row's maximum is taken before far ones are left out, so that the weights of the others vanish in float32."""
    scores = torch.tensor([[1.0, -0.99, 0.5], [0.0] * 3, [0.0] * 3])
    assert chances(scores, alone(3), Config())[0].tolist() == [0, 0, 0]
    assert chances(scores.double(), alone(3), Config(dimension=16))[0].tolist() == pytest.approx([0, 0, 1])


def test_no_gradient_flows_through_chances() -> None:
    assert not chances(random_scores(4, 4).requires_grad_(), alone(4), Config()).requires_grad


def test_what_is_drawn_is_drawn_as_often_as_it_is_likely() -> None:
    chance = torch.tensor([[0.0, 0.5, 0.3, 0.2, 0.0]] * 5)
    keys = torch.randint(2**62, (4000, 5), generator=torch.Generator().manual_seed(0))
    found = torch.stack([drawn(chance, torch.tensor([[0, 0]]), some, "i") for some in keys]).flatten()
    shares = found.bincount(minlength=5) / len(found)
    assert shares[[0, 4]].tolist() == [0, 0]
    assert shares[1:4].tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_draws_of_successive_keys_are_independent() -> None:
    """Slots count up from one to the next: as keys they differ in a few bits only."""
    n = 60
    chance, pairs = torch.full((n, n), 1 / n), torch.eye(n, dtype=torch.bool).nonzero()
    found = {way: torch.stack([drawn(chance, pairs, torch.arange(n) + n * update, way) for update in range(60)])  # type: ignore[arg-type]
             for way in "it"}
    for way in "it":
        counts = found[way].flatten().bincount(minlength=n).float()
        assert counts.std() < 1.3 * counts.mean().sqrt(), "as by chance, over columns"
        assert (found[way][:, 1:] == found[way][:, :-1]).float().mean() < 3 / n, "neighbours draw their own"
        assert (found[way][1:] == found[way][:-1]).float().mean() < 3 / n, "so do updates"
    assert (found["i"] == found["t"]).float().mean() < 3 / n, "and so do images and texts"


def test_draws_are_told_by_keys_and_not_by_places() -> None:
    n, turn = 7, torch.tensor([3, 0, 6, 2, 5, 1, 4])
    keys = 10**15 + torch.arange(n)
    chance = chances(random_scores(n, n), alone(n, (1, 4)), Config(dimension=8))
    pairs = alone(n, (1, 4)).nonzero()
    first = {tuple(pair): keys[wrong].item() for pair, wrong in
             zip(keys[pairs].tolist(), drawn(chance, pairs, keys, "i"), strict=True)}
    turned = alone(n, (1, 4))[turn][:, turn].nonzero()
    again = {tuple(pair): keys[turn][wrong].item() for pair, wrong in
             zip(keys[turn][turned].tolist(), drawn(chance[turn][:, turn], turned, keys[turn], "i"), strict=True)}
    assert first == again


def test_two_matches_of_an_anchor_draw_apart() -> None:
    chance, pairs = torch.full((50, 50), 1 / 50), torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3]])
    assert len(set(drawn(chance, pairs, torch.arange(50), "i").tolist())) > 1


def test_keys_are_mixed_as_splitmix_does() -> None:
    """Against unsigned arithmetic that Python does exactly."""
    def reference(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    assert reference(0) == 0xE220A8397B1DCDAF, "the first number of the published generator"
    keys = [0, 1, -1, 2**62, -(2**63), 2**63 - 1, 123456789]
    assert [value % 2**64 for value in mixed(torch.tensor(keys)).tolist()] == [reference(key % 2**64) for key in keys]
    assert uniform(torch.tensor(keys)).tolist() == [((reference(key % 2**64) >> 12) + 0.5) / 2**52 for key in keys]


def test_each_pair_pays_for_what_was_drawn() -> None:
    scores = torch.tensor([[0.5, 0.4, -0.1], [0.6, 0.7, 0.2], [0.35, 0.0, 0.3]], dtype=torch.float64)
    pairs, negative = torch.tensor([[0, 0], [1, 1], [1, 0], [2, 2]]), torch.tensor([1, 2, 2, 0])
    assert costs(scores, pairs, negative, 0.2).tolist() == pytest.approx([0.1, 0, 0, 0.25])


def test_pairs_of_one_image_are_all_to_be_matched() -> None:
    """Items 0 and 1 share an image; of the others each has one negative within reach."""
    scores = torch.full((3, 3), 0.1, dtype=torch.float64)
    found = terms(scores, [7, 7, 3], margin=0.5)
    assert found["drawn_i"].value.item() == pytest.approx(0.5 * 5)
    assert found["drawn_t"].value.item() == pytest.approx(0.5 * 5)


def test_pairs_without_anybody_to_draw_are_left_out_and_counted() -> None:
    scores = torch.full((3, 3), 0.1)
    scores[0, 1:] = 1.5
    scores.requires_grad_()
    found = terms(scores, margin=0.5)
    # Image 0 has only texts above 1; each text still has an image, that is not image 0.
    assert found["drawn_i"].value.item() == pytest.approx(2 * 0.5)
    assert found["drawn_t"].value.item() == pytest.approx(3 * 0.5)
    assert found["undrawn"].value.item() == pytest.approx(1 / 6)
    assert not found["undrawn"].counted
    (grad,) = torch.autograd.grad(found["drawn_i"].value, scores)
    assert grad[0].tolist() == [0, 0, 0]
    assert grad[1].sum() == pytest.approx(0)


def test_a_batch_of_one_image_costs_nothing_and_has_no_gradient() -> None:
    scores = random_scores(3, 3).requires_grad_()
    found = terms(scores, [7, 7, 7])
    loss = found["drawn_i"].value + found["drawn_t"].value
    assert loss.item() == 0
    assert found["undrawn"].value == 1
    assert not torch.autograd.grad(loss, scores)[0].any()


def test_other_keys_draw_others_and_the_same_ones_the_same() -> None:
    scores = torch.full((9, 9), 0.1) - 0.001 * torch.arange(81).view(9, 9)
    losses = [terms(scores, keys=torch.arange(9) + start)["drawn_i"].value.item() for start in (0, 9, 18, 0)]
    assert losses[0] == losses[3]
    assert len(set(losses)) == 3


def test_it_rises_over_a_share_of_the_run() -> None:
    scores = random_scores(5, 5)
    full = terms(scores)
    assert "ramp" not in full
    for progress, weight in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        found = terms(scores, progress=progress, ramp=0.4)
        assert found["drawn_i"].weight == pytest.approx(weight)
        assert found["drawn_i"].value == full["drawn_i"].value
        assert found["ramp"].value.item() == pytest.approx(weight)


def test_items_without_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="draws negatives by the keys of items"):
        DistanceWeighted(Config())(item_outcome(random_scores(2, 2)), item_batch(2), 0.0)


@pytest.mark.parametrize("wrong", [
    {"margin": -0.1}, {"cut_off": 0.0}, {"farthest": 2.1}, {"dimension": 1}, {"ramp": 2}])
def test_settings_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)
