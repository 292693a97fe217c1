"""train/loop/reducer.py: what is sent, and when; the sums themselves are proven by two real ranks in test_comm.py."""

from __future__ import annotations

import torch
from torch import nn

from train.distributed.comm import Solo, Wait
from train.loop.reducer import GradientReducer


def test_one_rank_reduces_nothing_and_needs_no_gradient() -> None:
    model = nn.Linear(2, 1)
    reducer = GradientReducer(Solo(), model.named_parameters(), "fp16")
    reducer.arm()
    model.weight.square().sum().backward()
    assert model.weight.grad is not None
    before = model.weight.grad.clone()
    reducer.finish()
    assert torch.equal(model.weight.grad, before)


class Recorder(Solo):
    """A rank of two that writes down what it would send."""

    size = 2

    def __init__(self) -> None:
        self.sent: list[str] = []

    def _mean_async_(self, tensor: torch.Tensor, name: str) -> Wait:
        self.sent.append(name)
        return lambda: None


def test_gradients_are_sent_in_the_last_backward_only_each_when_it_is_whole() -> None:
    comm = Recorder()
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    reducer = GradientReducer(comm, model.named_parameters())
    model(torch.ones(1, 2)).sum().backward()
    assert comm.sent == []
    reducer.arm()
    model(torch.ones(1, 2)).sum().backward()
    assert sorted(comm.sent) == ["gradient.0.weight", "gradient.1.bias", "gradient.1.weight"]
    assert comm.sent[-1] == "gradient.0.weight", "the first layer's comes last"
    reducer.finish()
    model(torch.ones(1, 2)).sum().backward()
    assert len(comm.sent) == 3, "armed for one backward only"
