"""Parameter groups, optimizers and learning rate schedules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from config.errors import ConfigError
from config.sections import Optim
from train.assembly import torch_optimizers

Named = Iterable[tuple[str, nn.Parameter]]
FACTOR = "factor"
"""The entry of a group that says what multiplies its learning rate."""


Group = dict[str, Any]


def parameter_groups(named: Named, weight_decay: float, decayed_norms: tuple[str, ...] = ()) -> list[Group]:
    """Two groups: weights, which decay, and biases and normalisations, which do not.

    `decayed_norms` are name suffixes of normalisation weights that decay all the same. Frozen parameters are left out.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        module = name.rpartition(".")[0].rpartition(".")[2].lower()
        norm = "norm" in module and not name.endswith(decayed_norms or ("\0",))
        (spared if norm or name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_groups(config: Optim, named: Named, decayed_norms: tuple[str, ...]) -> list[Group]:
    """The groups of a run in the order of `rate_factors`, those of no name last, each divided by what decays.

    Raises:
        ConfigError: a start of names takes no parameter.
    """
    starts = [*config.rate_factors, ("", 1.0)]
    parts: list[list[tuple[str, nn.Parameter]]] = [[] for _ in starts]
    for name, parameter in named:
        parts[next(n for n, (start, _) in enumerate(starts) if name.startswith(start))].append((name, parameter))
    groups: list[Group] = []
    for (start, factor), some in zip(starts, parts, strict=True):
        if not some and some is not parts[-1]:
            raise ConfigError(f"rate_factors: no parameter's name begins with {start} and is not in a group before it; "
                              "leave it out, or name the narrower start first")
        if config.decay_all:
            trained = [parameter for _, parameter in some if parameter.requires_grad]
            found = [{"params": trained, "weight_decay": config.weight_decay}] if trained else []
        else:
            norms = decayed_norms if config.decay_embedding_norms else ()
            found = parameter_groups(some, config.weight_decay, norms)
        groups += [group | {FACTOR: factor} for group in found]
    return groups


class AdamW(torch_optimizers.EagerOptimizer):
    """AdamW as the published runs computed it: epsilon joins the uncorrected root, decay comes after the update.

    `p -= a m / (sqrt(v) + eps)`, then `p -= lr wd p`, with `a = lr sqrt(1 - b2^k) / (1 - b1^k)`, or `lr` without bias
    correction. Both equal torch's form (Loshchilov and Hutter 2019) with `lr`, `eps` and decay restated for the
    step k, so torch's fused kernel does the work. Parameters without a gradient are skipped entirely.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "correct_bias": correct_bias}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            same_age: dict[int, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                same_age[state["step"]].append(parameter)
            for age, parameters in same_age.items():
                self._update(group, parameters, age)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], age: int) -> None:
        beta1, beta2 = group["betas"]
        root = (1 - beta2 ** (age + 1)) ** 0.5
        shrink = 1 - group["lr"] * group["weight_decay"]
        lr = group["lr"] * shrink
        if not group["correct_bias"]:
            lr *= (1 - beta1 ** (age + 1)) / root
        states = [self.state[parameter] for parameter in parameters]
        # One fill on the device, where a tensor made for each parameter would be an upload that is waited for.
        steps = torch.full((len(parameters),), float(age), device=parameters[0].device)
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            list(steps.unbind()),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=group["lr"] * group["weight_decay"] / lr,
            eps=group["eps"] / root,
            maximize=False,
        )
        for state in states:
            state["step"] = age + 1


class TwiceAdam(torch_optimizers.Adam):
    """Adam that steps the groups marked `twice` two times an update with the same gradient.

    So it went for the parameters that a published program had put into its list twice; `clip` counts them twice too.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        super().step(closure)
        hidden = [(p, p.grad) for group in self.param_groups if not group["twice"] for p in group["params"]]
        for parameter, _ in hidden:
            parameter.grad = None
        super().step()
        for parameter, grad in hidden:
            parameter.grad = grad


def clip(parameters: Iterable[nn.Parameter], largest: float, twice: Iterable[nn.Parameter] = ()) -> Tensor:
    """Scale all gradients together to a global norm of at most `largest` (-1: never); returns the norm before.

    Those of `twice` count and are scaled two times, as in a list that holds them twice.
    """
    listed = [list(parameters), list(twice)]
    norm = nn.utils.get_total_norm([p.grad for part in listed for p in part if p.grad is not None])
    if largest > 0:
        for part in listed:
            nn.utils.clip_grads_with_norm_(part, largest, norm)
    return norm


def build_optimizer(config: Optim, named: Named, decayed_norms: tuple[str, ...]) -> torch.optim.Optimizer:
    """The configured optimizer over the trainable parameters.

    Raises:
        ConfigError: `use_apex` where apex is not installed, or for another optimizer than AdamW and Adam; a start of
            names in `rate_factors` that takes no parameter.
    """
    named = list(named)
    groups = build_groups(config, named, decayed_norms)
    if config.step_twice:
        return twice_adam(config, named)
    if config.use_apex:
        return apex_optimizer(config, groups)
    if config.optim == "adamw":
        return AdamW(groups, config.learning_rate, config.betas, config.adam_eps, correct_bias=config.correct_bias)
    if config.optim == "torch_adamw":
        return torch_optimizers.AdamW(groups, config.learning_rate, config.betas, config.adam_eps, fused=True)
    kind = {"adam": torch_optimizers.Adam, "adamax": torch_optimizers.Adamax}[config.optim]
    return kind(groups, lr=config.learning_rate, betas=config.betas, eps=config.adam_eps)


def twice_adam(config: Optim, named: Named) -> TwiceAdam:
    """Adam over two groups, of which one is stepped twice."""
    if config.optim != "adam" or config.use_apex:
        raise ConfigError(f"step_twice={config.step_twice}: only torch's adam can do so; set --optim adam, no use_apex")
    once: list[nn.Parameter] = []
    twice: list[nn.Parameter] = []
    for name, parameter in named:
        (twice if name.startswith(config.step_twice) else once).append(parameter)
    if not twice:
        raise ConfigError(f"step_twice={config.step_twice}: no parameter's name begins so; leave it out")
    groups = [{"params": once, "twice": False}, {"params": twice, "twice": True}]
    return TwiceAdam(groups, config.learning_rate, config.betas, config.adam_eps, config.weight_decay)


def stepped_twice(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters that the optimizer steps twice."""
    return [p for group in optimizer.param_groups if group.get("twice") for p in group["params"]]


def apex_optimizer(config: Optim, groups: list[Group]) -> torch.optim.Optimizer:
    """apex's FusedAdam (decoupled decay, epsilon on the corrected root: torch's form, not the published one)."""
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise ConfigError("use_apex: apex is not installed; build NVIDIA's apex, or leave use_apex out") from error
    if config.optim == "adamax":
        raise ConfigError(f"use_apex: apex has no fused {config.optim}; use torch_adamw, adamw or adam")
    decoupled = config.optim != "adam"
    return FusedAdam(groups, config.learning_rate, betas=config.betas, eps=config.adam_eps, adam_w_mode=decoupled)


def learning_rate(config: Optim, step: int) -> float:
    """The rate of update `step` (1 is the first): linear warm-up, then the schedule; never below 1e-8."""
    if step < config.warmup_steps:
        rate = config.learning_rate * step / config.warmup_steps
    elif config.schedule == "step":
        rate = config.learning_rate * config.decay_factor ** ((step - 1) // config.decay_steps)
    elif config.schedule == "milestones":
        rate = config.learning_rate * config.decay_factor ** sum(at < step for at in config.decay_at)
    else:
        left = config.num_train_steps - step
        rate = config.learning_rate * max(0.0, left / max(config.num_train_steps - config.warmup_steps, 1))
    return rate if rate > 0 else 1e-8


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its multiple of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(FACTOR, 1.0)
