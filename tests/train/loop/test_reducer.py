"""train/loop/reducer.py: what is sent, and when; the sums themselves are proven by two real ranks in test_comm.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.ranks import on_ranks
from train.distributed.comm import Comm, Solo, Wait
from train.loop import reducer as module
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


def small() -> nn.Sequential:
    """Parameters of 16, 8 and 4 bytes that are trained, and one that is not."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.3)
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(("size", "buckets"), [
    (1 << 20, ["gradient.1.bias"]), (12, ["gradient.1.bias", "gradient.0.weight"]),
    (1, ["gradient.1.bias", "gradient.1.weight", "gradient.0.weight"]),
])  # fmt: skip
def test_gradients_are_sent_in_the_last_backward_only_in_fixed_buckets(
    size: int, buckets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", size)
    comm, model = Recorder(), small()
    reducer = GradientReducer(comm, model.named_parameters())
    model(torch.ones(1, 2)).sum().backward()
    assert comm.sent == []
    reducer.arm()
    model(torch.ones(1, 2)).sum().backward()
    assert comm.sent == buckets
    reducer.finish()
    model(torch.ones(1, 2)).sum().backward()
    assert len(comm.sent) == len(buckets), "armed for one backward only"


def test_a_bucket_that_is_full_early_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks must send in one order, whatever comes first on each of them."""
    monkeypatch.setattr(module, "BUCKET_BYTES", 1)
    comm, model = Recorder(), small()
    reducer = GradientReducer(comm, model.named_parameters())
    reducer.arm()
    model[0].weight.sum().backward()
    assert comm.sent == []
    model[1].bias.sum().backward()
    assert comm.sent == ["gradient.1.bias"]
    model[1].weight.sum().backward()
    assert comm.sent == ["gradient.1.bias", "gradient.1.weight", "gradient.0.weight"]


def test_a_parameter_without_a_gradient_is_named() -> None:
    comm, model = Recorder(), small()
    reducer = GradientReducer(comm, model.named_parameters())
    reducer.arm()
    model[1].weight.sum().backward()
    with pytest.raises(RuntimeError, match=r"no gradient for 0\.weight, 1\.bias; a matcher freezes"):
        reducer.finish()


@pytest.mark.parametrize(("size", "compression"), [(1 << 20, "none"), (12, "none"), (12, "fp16")])
def test_all_ranks_have_the_mean_in_two_updates(
    size: int, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", size)
    rows = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))

    def gradients(comm: Comm) -> list[dict[str, torch.Tensor]]:
        model = small()
        reducer = GradientReducer(comm, model.named_parameters(), compression)
        found = []
        for turn in (1.0, 2.0):
            reducer.arm()
            (turn * model(rows[comm.rank])).tanh().sum().backward()
            reducer.finish()
            found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            model.zero_grad()
        return found

    alone = [gradients(_alone(rank)) for rank in range(3)]
    together = on_ranks(3, gradients)
    for turn in range(2):
        for name, mean in together[0][turn].items():
            expected = torch.stack([one[turn][name] for one in alone]).mean(0)
            torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-3 if compression == "fp16" else 1e-6)
            assert mean.dtype == torch.float32
            assert all(torch.equal(mean, other[turn][name]) for other in together)


def _alone(rank: int) -> Solo:
    comm = Solo()
    comm.rank = rank
    return comm


@pytest.mark.parametrize("loss_scale", [1.0, 65536.0])
@pytest.mark.parametrize("true", [1e-8, 1e-4, 1.0, 50.0])
def test_gradients_of_any_usual_size_survive_half_precision(true: float, loss_scale: float) -> None:
    """Sent as they are, the small ones vanish, and scaled ones overflow from 1 on."""

    def gradient(comm: Comm) -> torch.Tensor:
        model = nn.Linear(4, 1, bias=False)
        reducer = GradientReducer(comm, model.named_parameters(), "fp16", lambda: loss_scale)
        reducer.arm()
        (model.weight.sum() * true * loss_scale).backward()
        reducer.finish()
        assert model.weight.grad is not None
        return model.weight.grad / loss_scale

    for found in on_ranks(3, gradient):
        torch.testing.assert_close(found, torch.full_like(found, true), rtol=0.02, atol=0)


def test_an_exploded_gradient_is_infinite_and_not_wrong() -> None:
    def gradient(comm: Comm) -> bool:
        model = nn.Linear(4, 1, bias=False)
        reducer = GradientReducer(comm, model.named_parameters(), "fp16")
        reducer.arm()
        (model.weight.sum() * 1e6).backward()
        reducer.finish()
        assert model.weight.grad is not None
        return bool(model.weight.grad.isinf().all())

    assert on_ranks(2, gradient) == [True, True]
