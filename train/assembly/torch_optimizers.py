"""torch's optimizers without its compiler."""

from __future__ import annotations

from inspect import unwrap

from torch import no_grad, optim


class EagerOptimizer(optim.Optimizer):
    """torch keeps its compiler out of these methods, and imports it for that: half of the time that a program starts.

    They are used as they are underneath, for nothing here is compiled. To be named before the optimizer it is for.
    """

    add_param_group = unwrap(optim.Optimizer.add_param_group)
    load_state_dict = unwrap(optim.Optimizer.load_state_dict)
    state_dict = unwrap(optim.Optimizer.state_dict)
    zero_grad = unwrap(optim.Optimizer.zero_grad)


class Adam(EagerOptimizer, optim.Adam):
    """torch's, which no one differentiates through."""

    step = no_grad()(unwrap(optim.Adam.step))


class AdamW(EagerOptimizer, optim.AdamW):
    """torch's, which no one differentiates through."""

    step = no_grad()(unwrap(optim.AdamW.step))


class Adamax(EagerOptimizer, optim.Adamax):
    """torch's, which no one differentiates through."""

    step = no_grad()(unwrap(optim.Adamax.step))
