"""train/assembly/optim.py: the optimizers of the published runs, number by number, clipping, and schedules."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from config.errors import ConfigError
from config.sections import Optim
from tests.samples import small
from train.assembly import torch_optimizers
from train.assembly.optim import (
    AdamW,
    TwiceAdam,
    apex_optimizer,
    build_groups,
    build_optimizer,
    clip,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    stepped_twice,
)

BETAS, EPS = (0.9, 0.98), 1e-6


class Plain:
    """The published update, one parameter after the other, in float64."""

    def __init__(self, weight_decay: float, correct_bias: bool) -> None:
        self.weight_decay, self.correct_bias = weight_decay, correct_bias
        self.ages: dict[int, int] = {}
        self.moments: dict[int, tuple[Tensor, Tensor]] = {}

    def step(self, parameters: list[Tensor], grads: list[Tensor | None], lr: float) -> None:
        for number, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
            if grad is None:
                continue
            m, v = self.moments.get(number, (torch.zeros_like(parameter), torch.zeros_like(parameter)))
            m = BETAS[0] * m + (1 - BETAS[0]) * grad
            v = BETAS[1] * v + (1 - BETAS[1]) * grad**2
            k = self.ages[number] = self.ages.get(number, 0) + 1
            self.moments[number] = m, v
            rate = lr * (1 - BETAS[1] ** k) ** 0.5 / (1 - BETAS[0] ** k) if self.correct_bias else lr
            parameter -= rate * m / (v.sqrt() + EPS)
            parameter -= lr * self.weight_decay * parameter


def start(seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=source, dtype=torch.float64) for shape in ((3, 4), (5,), (2, 2))]


def gradients(step: int) -> list[Tensor | None]:
    """The last parameter has none in every other step, so that ages differ; tiny ones make epsilon matter."""
    source = torch.Generator().manual_seed(100 + step)
    scale = (1.0, 1e-6, 1e-2)
    grads: list[Tensor | None] = [
        factor * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        for factor, parameter in zip(scale, start(), strict=True)]
    if step % 2:
        grads[2] = None
    return grads


@pytest.mark.parametrize("correct_bias", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 0.5])
def test_it_is_the_published_formula(correct_bias: bool, weight_decay: float) -> None:
    plain, parameters = Plain(weight_decay, correct_bias), [nn.Parameter(value.clone()) for value in start()]
    optimizer = AdamW(parameters, 1e-3, BETAS, EPS, weight_decay, correct_bias)
    expected = start()
    for step in range(12):
        rate = 1e-3 * (step + 1)
        for parameter, grad in zip(parameters, gradients(step), strict=True):
            parameter.grad = None if grad is None else grad.clone()
        set_learning_rate(optimizer, rate)
        optimizer.step()
        plain.step(expected, gradients(step), rate)
        for parameter, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=1e-7, atol=1e-9)
    assert [optimizer.state[parameter]["step"] for parameter in parameters] == [12, 12, 6]


def test_it_differs_from_the_usual_form_where_epsilon_matters() -> None:
    """Epsilon joins the uncorrected root: with small gradients the first update is not torch's."""
    ours, usual = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    for parameter in (ours, usual):
        parameter.grad = torch.full((3,), 1e-6, dtype=torch.float64)
    AdamW([ours], 1e-2, BETAS, EPS).step()
    torch.optim.AdamW([usual], 1e-2, BETAS, EPS, weight_decay=0.0).step()
    assert abs((1 - ours[0].item()) / (1 - usual[0].item()) - 1) > 0.5


def test_a_parameter_without_a_gradient_does_not_decay() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = AdamW([parameter], 1e-1, BETAS, EPS, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(3))
    assert not optimizer.state[parameter]


def test_its_state_goes_out_and_in_again_to_the_bit() -> None:
    def stepped(optimizer: AdamW, parameters: list[nn.Parameter], steps: range) -> None:
        for step in steps:
            for parameter, grad in zip(parameters, gradients(step), strict=True):
                parameter.grad = None if grad is None else grad.clone()
            optimizer.step()

    parameters = [nn.Parameter(value) for value in start()]
    optimizer = AdamW(parameters, 1e-2, BETAS, EPS, 0.01)
    stepped(optimizer, parameters, range(5))
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    other = AdamW(copies, 1.0, BETAS, EPS, 0.01)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    stepped(optimizer, parameters, range(5, 9))
    stepped(other, copies, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


def names(groups: list[dict[str, Any]], model: nn.Module) -> list[set[str]]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{known[id(parameter)] for parameter in group["params"]} for group in groups]


def test_biases_and_norms_are_spared_and_the_embedding_norms_as_told() -> None:
    matcher = small("uniter")
    both = names(parameter_groups(matcher.named_parameters(), 0.01, matcher.decayed_norms), matcher)
    decayed, spared = both
    assert {"region.feature_norm.weight", "region.box_norm.weight"} <= decayed
    assert {"region.norm.weight", "text.norm.weight", "encoder.layers.0.attention_norm.weight"} <= spared
    assert all(name.endswith(("bias", "norm.weight")) for name in spared)
    assert not any(name.endswith("bias") for name in decayed)
    trainable = {name for name, parameter in matcher.named_parameters() if parameter.requires_grad}
    assert decayed | spared == trainable
    assert not decayed & spared
    decayed, spared = names(parameter_groups(matcher.named_parameters(), 0.01), matcher)
    assert {"region.feature_norm.weight", "region.box_norm.weight"} <= spared


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(parameter_groups([("a.weight", nn.Parameter(torch.ones(1)))], 0.1)) == 1


@pytest.mark.parametrize(("kind", "made"),
                         [("adamw", AdamW), ("torch_adamw", torch_optimizers.AdamW), ("adam", torch_optimizers.Adam),
                          ("adamax", torch_optimizers.Adamax)])
def test_the_configured_optimizer_is_built(kind: str, made: type) -> None:
    matcher = small("uniter")
    config = Optim(optim=kind, learning_rate=3e-4, betas=(0.8, 0.9), adam_eps=1e-7, weight_decay=0.3)  # type: ignore[arg-type]
    optimizer = build_optimizer(config, matcher.named_parameters(), matcher.decayed_norms)
    assert type(optimizer) is made
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(group["lr"] == 3e-4 and group["betas"] == (0.8, 0.9) and group["eps"] == 1e-7
               for group in optimizer.param_groups)


def test_embedding_norms_decay_only_where_published_runs_are_followed() -> None:
    matcher = small("uniter")
    for follow in (True, False):
        config = Optim(decay_embedding_norms=follow)
        groups = build_optimizer(config, matcher.named_parameters(), matcher.decayed_norms).param_groups
        assert ("region.box_norm.weight" in names(groups, matcher)[0]) is follow


def test_apex_is_asked_for_in_words_where_it_is_missing() -> None:
    try:
        import apex  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="use_apex: apex is not installed"):
            apex_optimizer(Optim(use_apex=True), [])
    else:
        pytest.skip("apex is installed here")


@pytest.mark.parametrize(("step", "rate"), [
    (1, 1e-4), (5, 5e-4), (9, 9e-4), (10, 1e-3), (11, 1e-3 * 39 / 40), (30, 5e-4), (49, 1e-3 / 40), (50, 1e-8),
    (60, 1e-8)])
def test_the_rate_rises_and_falls_in_straight_lines(step: int, rate: float) -> None:
    config = Optim(learning_rate=1e-3, warmup_steps=10, num_train_steps=50)
    assert learning_rate(config, step) == pytest.approx(rate, rel=1e-12)


def test_a_run_without_warm_up_starts_near_the_peak() -> None:
    config = Optim(learning_rate=1.0, warmup_steps=0, num_train_steps=4)
    assert [learning_rate(config, step) for step in (1, 2, 3, 4)] == [0.75, 0.5, 0.25, 1e-8]


def test_the_rate_falls_in_steps_of_so_many_updates() -> None:
    config = Optim(learning_rate=2e-4, schedule="step", decay_steps=3, decay_factor=0.1, warmup_steps=0)
    rates = [learning_rate(config, step) for step in range(1, 10)]
    assert rates == pytest.approx([2e-4] * 3 + [2e-5] * 3 + [2e-6] * 3, rel=1e-12)


def test_steps_count_from_the_start_of_the_run_whatever_its_warm_up() -> None:
    config = Optim(learning_rate=1.0, schedule="step", decay_steps=4, decay_factor=0.5, warmup_steps=2)
    assert [learning_rate(config, step) for step in range(1, 10)] == [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_all_groups_get_the_rate() -> None:
    optimizer = AdamW([{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))]}], 1.0,
                      BETAS, EPS)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def with_gradients() -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    return parameters


def test_clip_scales_all_gradients_together() -> None:
    parameters = with_gradients()
    for largest in (-1, 10.0):
        assert clip(iter(parameters), largest) == 5
        assert parameters[0].grad is not None
        assert parameters[0].grad.tolist() == [3, 0]
    assert clip(iter(parameters), 1.0) == 5
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.8]))


def test_clip_counts_and_scales_duplicates_twice_as_torch_does_with_a_list_that_holds_them_twice() -> None:
    ours, theirs = with_gradients(), with_gradients()
    assert clip(iter(ours), -1, ours[1:]) == pytest.approx((9 + 16 + 16) ** 0.5)
    norm = clip(iter(ours), 2.0, ours[1:])
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_([*theirs, *theirs[1:]], 2.0))
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    assert ours[1].grad is not None
    assert ours[1].grad.item() == pytest.approx(4 * (2 / 41**0.5) ** 2, rel=1e-5)


def twice_config(**changed: Any) -> Optim:
    given = {"optim": "adam", "learning_rate": 1e-2, "betas": BETAS, "adam_eps": 1e-8, "weight_decay": 0.0}
    return Optim(**(given | {"step_twice": "caption."} | changed))


def named(parameters: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
    return list(zip(("words.weight", "caption.out.weight", "captions.weight"), parameters, strict=True))


def test_what_is_stepped_twice_gets_two_steps_of_adam_with_one_gradient() -> None:
    """Against two plain optimizers, of which one is stepped again by hand."""
    ours, theirs = ([nn.Parameter(value) for value in start()] for _ in range(2))
    optimizer = build_optimizer(twice_config(), named(ours), ())
    assert isinstance(optimizer, TwiceAdam)
    assert stepped_twice(optimizer) == [ours[1]], "not every name that begins alike: the dot belongs to it"
    once, again = torch.optim.Adam([theirs[0], theirs[2]], 1e-2, BETAS), torch.optim.Adam([theirs[1]], 1e-2, BETAS)
    for step in range(6):
        for parameters in (ours, theirs):
            for parameter, grad in zip(parameters, gradients(step), strict=True):
                parameter.grad = None if grad is None else grad.clone()
        rate = 1e-2 / (step + 1)
        for each in (optimizer, once, again):
            set_learning_rate(each, rate)
            each.step()
        again.step()
        for a, b, grad in zip(ours, theirs, gradients(step), strict=True):
            assert torch.equal(a, b)
            assert (a.grad is None) == (grad is None), "gradients are where they were"
    assert [int(optimizer.state[parameter]["step"]) for parameter in ours] == [6, 12, 3]


def test_stepping_twice_goes_on_from_its_state() -> None:
    ours = [nn.Parameter(value) for value in start()]
    first = build_optimizer(twice_config(), named(ours), ())
    copies = [nn.Parameter(value) for value in start()]
    second = build_optimizer(twice_config(), named(copies), ())
    for step in range(4):
        for parameters, optimizer in ((ours, first), (copies, second)):
            for parameter, grad in zip(parameters, gradients(step), strict=True):
                parameter.grad = None if grad is None else grad.clone()
            optimizer.step()
        second = build_optimizer(twice_config(), named(copies), ())
        second.load_state_dict(deepcopy(first.state_dict()))
        assert stepped_twice(second) == [copies[1]]
    assert all(torch.equal(a, b) for a, b in zip(ours, copies, strict=True))


@pytest.mark.parametrize(("changed", "message"), [
    ({"optim": "adamw"}, "step_twice=caption.: only torch's adam can do so; set --optim adam"),
    ({"use_apex": True}, "only torch's adam can do so"),
    ({"step_twice": "decoder."}, "step_twice=decoder.: no parameter's name begins so; leave it out")])
def test_stepping_twice_is_refused_where_it_means_nothing(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(twice_config(**changed), named([nn.Parameter(value) for value in start()]), ())


def test_an_ordinary_optimizer_steps_nothing_twice() -> None:
    parameters = [nn.Parameter(value) for value in start()]
    assert stepped_twice(build_optimizer(twice_config(step_twice=""), named(parameters), ())) == []


def test_torchs_form_decays_first_and_adds_epsilon_to_the_corrected_root() -> None:
    """Loshchilov and Hutter 2019, one parameter after the other; small gradients make epsilon matter."""
    ours, expected = [nn.Parameter(value) for value in start()], start()
    rate, decay, eps = 1e-2, 0.3, 1e-4
    config = Optim(optim="torch_adamw", learning_rate=rate, betas=BETAS, adam_eps=eps, weight_decay=decay,
                   decay_all=True)
    optimizer = build_optimizer(config, named(ours), ())
    moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in expected]
    ages = [0, 0, 0]
    for step in range(8):
        for number, (parameter, grad) in enumerate(zip(ours, gradients(step), strict=True)):
            parameter.grad = None if grad is None else grad.clone()
            if grad is None:
                continue
            m, v = moments[number]
            m, v = BETAS[0] * m + (1 - BETAS[0]) * grad, BETAS[1] * v + (1 - BETAS[1]) * grad**2
            moments[number], ages[number] = (m, v), ages[number] + 1
            expected[number] *= 1 - rate * decay
            root = (v / (1 - BETAS[1] ** ages[number])).sqrt()
            expected[number] -= rate * m / (1 - BETAS[0] ** ages[number]) / (root + eps)
        optimizer.step()
        for parameter, value in zip(ours, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value, rtol=1e-7, atol=1e-9)


TOWERS = ("vision.tower.layernorm_before.weight", "vision.tower.attention.weight", "vision.tower.attention.bias",
          "vision.project.weight", "text.tower.LayerNorm.weight", "text.tower.dense.weight", "aggregate.scale")


def divided(**settings: Any) -> list[tuple[set[str], float, float]]:
    """(names, factor, decay) of each group of the parameters of two towers."""
    parameters = [(name, nn.Parameter(torch.ones(1))) for name in TOWERS]
    known = {id(parameter): name for name, parameter in parameters}
    config = Optim(**({"weight_decay": 0.5} | settings))
    return [({known[id(parameter)] for parameter in group["params"]}, group["factor"], group["weight_decay"])
            for group in build_groups(config, parameters, ())]


def test_norms_are_spared_by_whatever_name() -> None:
    spared = {"vision.tower.layernorm_before.weight", "vision.tower.attention.bias", "text.tower.LayerNorm.weight"}
    assert divided() == [(set(TOWERS) - spared, 1, 0.5), (spared, 1, 0)]


def test_all_of_them_may_decay() -> None:
    assert divided(decay_all=True) == [(set(TOWERS), 1, 0.5)]


def test_groups_stand_in_the_order_of_their_names_and_the_rest_comes_last() -> None:
    factors = [["text.tower", 0.1], ["vision.", 2], ["aggregate", 1]]
    assert divided(decay_all=True, rate_factors=factors) == [
        ({name for name in TOWERS if name.startswith("text.")}, 0.1, 0.5),
        ({name for name in TOWERS if name.startswith("vision.")}, 2, 0.5),
        ({"aggregate.scale"}, 1, 0.5)]
    assert divided(decay_all=True, rate_factors=factors[:1])[1] == (
        {name for name in TOWERS if not name.startswith("text.")}, 1, 0.5)


def test_the_first_name_that_fits_counts() -> None:
    found = divided(decay_all=True, rate_factors=[["vision.project", 3], ["vision", 0.1]])
    assert [(len(members), factor) for members, factor, _ in found] == [(1, 3), (3, 0.1), (3, 1)]


def test_groups_with_factors_are_divided_by_what_decays() -> None:
    assert divided(rate_factors=[["text.tower", 0.1]]) == [
        ({"text.tower.dense.weight"}, 0.1, 0.5), ({"text.tower.LayerNorm.weight"}, 0.1, 0),
        ({"vision.tower.attention.weight", "vision.project.weight", "aggregate.scale"}, 1, 0.5),
        ({"vision.tower.layernorm_before.weight", "vision.tower.attention.bias"}, 1, 0)]


@pytest.mark.parametrize(("factors", "start"), [
    ([["decoder", 0.1]], "decoder"), ([["vision", 0.1], ["vision.project", 1]], "vision.project"),
    ([["text", 0.1], ["text", 1]], "text")])
def test_a_name_that_takes_no_parameter_is_refused(factors: list[Any], start: str) -> None:
    with pytest.raises(ConfigError, match=rf"rate_factors: no parameter's name begins with {start} .*narrower start"):
        divided(rate_factors=factors)


def test_frozen_parameters_are_in_no_group() -> None:
    frozen, trained = (nn.Parameter(torch.ones(1), requires_grad=wanted) for wanted in (False, True))
    config = Optim(decay_all=True, rate_factors=(("text", 0.1),))
    groups = build_groups(config, [("text.tower.weight", frozen), ("vision.tower.weight", trained)], ())
    assert [group["params"] for group in groups] == [[trained]]


@pytest.mark.parametrize("kind", ["adamw", "torch_adamw", "adam"])
def test_each_group_gets_its_multiple_of_the_rate_and_steps_by_it(kind: str) -> None:
    """Adam's first step is as long as its rate."""
    parameters = [(name, nn.Parameter(torch.ones(1))) for name in ("text.weight", "vision.weight")]
    config = Optim(optim=kind, weight_decay=0.0, adam_eps=1e-12, rate_factors=(("text", 0.1),))  # type: ignore[arg-type]
    optimizer = build_optimizer(config, parameters, ())
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.25]
    for _, parameter in parameters:
        parameter.grad = torch.ones(1)
    optimizer.step()
    assert [1 - parameter.item() for _, parameter in parameters] == pytest.approx([0.025, 0.25], rel=1e-5)
    again = build_optimizer(config, parameters, ())
    again.load_state_dict(deepcopy(optimizer.state_dict()))
    set_learning_rate(again, 0.5)
    assert [group["lr"] for group in again.param_groups] == [0.05, 0.5], "a resume keeps them"


def test_a_state_from_before_there_were_factors_has_the_rate_itself() -> None:
    parameters = [("a.weight", nn.Parameter(torch.ones(1)))]
    optimizer = build_optimizer(Optim(), parameters, ())
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["factor"]
    optimizer.load_state_dict(state)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]


def test_the_rate_falls_at_milestones() -> None:
    config = Optim(learning_rate=2e-4, schedule="milestones", decay_at=(2, 5), decay_factor=0.3, warmup_steps=0)
    rates = [learning_rate(config, step) for step in range(1, 8)]
    assert rates == pytest.approx([2e-4] * 2 + [6e-5] * 3 + [1.8e-5] * 2, rel=1e-12)


def test_torchs_form_goes_on_from_its_state_to_the_bit() -> None:
    config = Optim(optim="torch_adamw", learning_rate=1e-2, weight_decay=0.1, decay_all=True)
    ours = [nn.Parameter(value) for value in start()]
    first = build_optimizer(config, named(ours), ())
    copies = [nn.Parameter(value) for value in start()]
    for step in range(4):
        second = build_optimizer(config, named(copies), ())
        second.load_state_dict(deepcopy(first.state_dict()))
        for parameters, optimizer in ((ours, first), (copies, second)):
            for parameter, grad in zip(parameters, gradients(step), strict=True):
                parameter.grad = None if grad is None else grad.clone()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, copies, strict=True))
