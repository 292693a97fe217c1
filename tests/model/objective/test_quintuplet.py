"""model/objective/quintuplet.py: each term, weight and option, by loops and by what the gradients must be."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from model.matcher import MatchOut
from model.objective import Term
from model.objective.quintuplet import Config, Quintuplet
from model.objective.triplet import Config as TripletConfig
from model.objective.triplet import Triplet
from tests.items import item_batch, item_outcome, random_scores

N, OWNER, RELATED = 6, [0, 1, 2, 1, 4, 5], [2, 4]
ONLINE, OFFLINE = ("online_i", "online_t"), ("offline_text", "offline_image", "offline_both", "offline_kin")
PUBLISHED = {"mask_same_image": False, "mask_true_pairs": False, "sum_weight_axis": "columns"}


def outcome(seed: int = 0) -> MatchOut:
    """Items 1 and 3 share an image; 2 and 4 bring true pairs; offline negatives are harder than the others."""
    return item_outcome(random_scores(N, N, seed=seed), OWNER, 2 * random_scores(4, N, seed=seed + 50) + 0.2, RELATED)


def terms(out: MatchOut, progress: float = 0.5, **options: Any) -> dict[str, Term]:
    return Quintuplet(Config(**options))(out, item_batch(len(out.images)), progress)


def counted(out: MatchOut, **options: Any) -> dict[str, float]:
    return {name: term.value.item() for name, term in terms(out, **options).items() if term.counted}


def loss(out: MatchOut, **options: Any) -> Tensor:
    return torch.stack([term.value for term in terms(out, **options).values() if term.counted]).sum()


def weights_of(out: MatchOut, config: Config) -> list[tuple[float, float]]:
    """Each item's weights of its image and of its text, negatives being found among all others."""
    scores, offline, found = out.scores["match"].tolist(), out.offline, []
    assert offline is not None
    for i in range(len(scores)):
        others = [j for j in range(N) if j != i and not (config.mask_same_image and OWNER[i] == OWNER[j])]
        rival = max(scores[i][j] for j in others), max(scores[j][i] for j in others)
        harder = offline.text[i].item(), offline.image[i].item()
        pair = [config.beta - (a - s) / config.alpha for a, s in zip(harder, rival, strict=True)]
        found.append((max(0.0, pair[0]), max(0.0, pair[1])) if config.clamp_weights else (pair[0], pair[1]))
    return found if config.adaptive else [(1.0, 1.0)] * len(scores)


def plain(out: MatchOut, **options: Any) -> dict[str, float]:
    """The formula, number by number."""
    config, scores, offline = Config(**options), out.scores["match"].tolist(), out.offline
    assert offline is not None
    total = dict.fromkeys((*ONLINE, *OFFLINE), 0.0)
    weights = weights_of(out, config)
    for i in range(N):
        match = scores[i][i]
        others = [j for j in range(N) if j != i and not (config.mask_same_image and OWNER[i] == OWNER[j])]
        rows = {j: max(0.0, config.margin_online + scores[i][j] - match) for j in others}
        columns = {j: max(0.0, config.margin_online + scores[j][i] - match) for j in others}
        if config.max_violation:
            total["online_i"] += weights[i][0] * max(rows.values())
            total["online_t"] += weights[i][1] * max(columns.values())
        else:
            by = {j: i if config.sum_weight_axis == "rows" else j for j in others}
            total["online_i"] += sum(weights[by[j]][0] * cost for j, cost in rows.items())
            total["online_t"] += sum(weights[i][1] * cost for cost in columns.values())
        for name, scored in zip(OFFLINE, (offline.text, offline.image, offline.both, offline.kin), strict=True):
            pair = name in ("offline_both", "offline_kin")
            if not (pair and config.mask_true_pairs and i in RELATED):
                total[name] += max(0.0, config.margin_offline + scored[i].item() - match)
    off = {*(() if config.triplets else OFFLINE[:2]), *(() if config.pairs else OFFLINE[2:])}
    return {name: value for name, value in total.items() if name not in off}


@pytest.mark.parametrize("options", [
    {}, PUBLISHED, {"margin_online": 0.4}, {"margin_offline": 0.1}, {"alpha": 0.1}, {"beta": 0.5},
    {"clamp_weights": True}, {"mask_true_pairs": False}, {"mask_same_image": False}, {"triplets": False},
    {"pairs": False}, {"adaptive": False}, {"max_violation": False},
    {"max_violation": False, "sum_weight_axis": "columns"}, PUBLISHED | {"max_violation": False},
    {"max_violation": False, "adaptive": False}])
def test_each_option_is_the_formula_number_by_number(options: dict[str, Any]) -> None:
    out = outcome()
    found = counted(out, **options)
    assert found == pytest.approx(plain(out, **options))
    assert options == {} or found != pytest.approx(plain(out)), "the option changes something"


def test_switched_off_one_after_the_other_the_parts_are_the_published_ablation() -> None:
    out, off = outcome(), {"adaptive": False, "pairs": False, "triplets": False}
    whole = counted(out, adaptive=False)
    assert list(whole) == [*ONLINE, *OFFLINE]
    assert counted(out, adaptive=False, pairs=False) == {name: whole[name] for name in (*ONLINE, *OFFLINE[:2])}
    triplet = Triplet(TripletConfig())(out, item_batch(N), 0.5)
    assert counted(out, **off) == {name: term.value.item() for name, term in triplet.items()}


def test_the_hardest_alone_may_count_from_a_share_of_the_run_on() -> None:
    out = outcome()
    assert counted(out, hardest_from=0.51) == counted(out, max_violation=False) != counted(out)
    assert counted(out, hardest_from=0.5) == counted(out)


class Slopes(NamedTuple):
    """Of the loss of two items, by scores that no other term holds."""

    rival: float
    offline: float
    match: float


def slopes(match: float, rival: float, offline: float, of_text: bool = False, **options: Any) -> Slopes:
    """Item 0's score, its image's (or its text's) one negative in the batch and its offline text (or image) are given.

    All else is far below.
    """
    scores = torch.tensor([[match, rival], [-9, 9]], dtype=torch.float64)
    scores = (scores.T if of_text else scores).clone().requires_grad_()
    four = torch.full((4, 2), -9.0, dtype=torch.float64)
    four[int(of_text), 0] = offline
    four.requires_grad_()
    total = loss(item_outcome(scores, offline=four), **options)
    by_scores, by_offline = torch.autograd.grad(total, (scores, four))
    return Slopes((by_scores.T if of_text else by_scores)[0, 1].item(), by_offline[int(of_text), 0].item(),
                  by_scores[0, 0].item())


@pytest.mark.parametrize("of_text", [False, True])
def test_gradients_flow_through_the_weights_as_published(of_text: bool) -> None:
    """With c the violation and w the weight: by the rival w + c/alpha, by the offline one -c/alpha + [a > match]."""
    for offline in (0.3, 0.6):
        violation, weight = 0.2 + 0.4 - 0.5, 1.5 - (offline - 0.4) / 0.3
        paid = float(offline > 0.5)
        found = slopes(0.5, 0.4, offline, of_text)
        assert found == pytest.approx((weight + violation / 0.3, -violation / 0.3 + paid, -weight - paid))


def test_without_a_violation_the_weight_has_no_gradient_either() -> None:
    assert slopes(match=0.7, rival=0.4, offline=0.6) == (0, 0, 0)


@pytest.mark.parametrize("of_text", [False, True])
def test_detached_weights_weigh_and_nothing_else(of_text: bool) -> None:
    found = slopes(0.5, 0.4, 0.6, of_text, detach_weights=True)
    weight = 1.5 - 0.2 / 0.3
    assert found == pytest.approx((weight, 1, -weight - 1))


@pytest.mark.parametrize("of_text", [False, True])
def test_a_much_harder_offline_negative_rewards_the_violation_unless_clamped(of_text: bool) -> None:
    given = 0.5, 0.4, 0.95, of_text
    assert slopes(*given).rival == pytest.approx(1.5 - 0.55 / 0.3 + 0.1 / 0.3)
    assert slopes(*given, detach_weights=True).rival == pytest.approx(1.5 - 0.55 / 0.3)
    assert slopes(*given, detach_weights=True).rival < 0
    assert slopes(*given, clamp_weights=True) == (0, 1, -1)


def test_a_batch_of_one_is_weighed_without_a_rival() -> None:
    """Nobody to compare with: the online terms are nothing, and finite weights leave it so."""
    scores = torch.zeros(1, 1, dtype=torch.float64).requires_grad_()
    out = item_outcome(scores, offline=torch.full((4, 1), 0.25, dtype=torch.float64))
    assert counted(out) == {"online_i": 0, "online_t": 0} | dict.fromkeys(OFFLINE, 0.25)
    assert torch.autograd.grad(loss(out), scores)[0].item() == -4


def test_what_is_watched_is_what_happened() -> None:
    out = outcome()
    watched = {name: term.value.item() for name, term in terms(out).items() if not term.counted}
    assert out.offline is not None
    weights = torch.tensor(weights_of(out, Config()))
    scores, offline = out.scores["match"], out.offline
    assert watched["weight_i"] == pytest.approx(weights[:, 0].mean().item())
    assert watched["weight_t"] == pytest.approx(weights[:, 1].mean().item())
    assert 0 < watched["negative_weights"] < 1
    assert watched["negative_weights"] == pytest.approx((weights < 0).float().mean().item())
    assert watched["match"] == pytest.approx(scores.diagonal().mean().item())
    assert watched["related_pairs"] == pytest.approx(2 / 6)
    rivals = torch.tensor([max(scores[i, j].item() for j in range(N) if OWNER[j] != OWNER[i]) for i in range(N)])
    assert watched["offline_ahead"] == pytest.approx((offline.text - rivals).mean().item())
    active = offline.kin > scores.diagonal()
    active[RELATED] = False
    assert watched["offline_kin_active"] == pytest.approx(active.float().mean().item())
    assert 0 < watched["offline_kin_active"] < 1
    assert {f"{name}_active" for name in (*ONLINE, *OFFLINE)} <= watched.keys()


@pytest.mark.parametrize("bad", [{"margin_online": -0.1}, {"margin_offline": -1}, {"alpha": 0.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Config(**bad)  # type: ignore[arg-type]


def test_a_batch_without_offline_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match="needs offline negatives; the batch has none"):
        terms(item_outcome(random_scores(3, 3)))
