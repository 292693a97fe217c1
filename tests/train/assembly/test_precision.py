"""train/assembly/precision.py: float32 by default, halves through autocast, and a loss scale for fp16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train.assembly.precision import Precision
from train.assembly.torch_optimizers import AdamW

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "dtype"), [("off", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_asked_type(kind: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(4, 4)
    with Precision(kind, CPU).autocast():
        assert layer(torch.ones(2, 4)).dtype == dtype
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["off", "fp16", "bf16"])
def test_gradients_arrive_unscaled_at_the_optimizer(kind: str) -> None:
    precision = Precision(kind, CPU)
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    precision.backward((weight * 2).sum())
    precision.unscale(optimizer)
    assert weight.grad is not None
    assert weight.grad.item() == 2
    precision.step(optimizer)
    assert weight.item() == 2


def overflow(precision: Precision, optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> None:
    precision.backward((weight * torch.inf).sum())
    precision.unscale(optimizer)
    precision.step(optimizer)
    optimizer.zero_grad()


def test_an_overflow_skips_the_update_and_lowers_the_scale() -> None:
    precision, weight = Precision("fp16", CPU), nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    precision.backward(weight.sum() * 0)
    precision.unscale(optimizer)
    precision.step(optimizer)
    before = precision.state_dict()["scale"]
    overflow(precision, optimizer, weight)
    assert weight.item() == 3
    assert precision.state_dict()["scale"] == before / 2


def test_the_scale_goes_into_a_checkpoint_and_out_again() -> None:
    precision, weight = Precision("fp16", CPU), nn.Parameter(torch.tensor([3.0]))
    for _ in range(3):
        overflow(precision, torch.optim.SGD([weight], lr=0.5), weight)
    other = Precision("fp16", CPU)
    other.load_state_dict(precision.state_dict())
    assert other.state_dict() == precision.state_dict()
    assert precision.state_dict()["scale"] < Precision("fp16", CPU).state_dict()["scale"]


def test_without_a_scale_there_is_nothing_to_save() -> None:
    precision = Precision("bf16", CPU)
    assert precision.state_dict() == {}
    precision.load_state_dict({})


def test_an_update_left_out_for_an_overflow_lowers_the_scale_and_one_left_out_otherwise_does_not() -> None:
    precision, weight = Precision("fp16", CPU), nn.Parameter(torch.tensor([3.0]))
    optimizer = AdamW([weight], lr=0.5, fused=True)
    scales = []
    for factor in (0.0, torch.inf, torch.nan, 0.0):
        precision.backward((weight * factor).sum())
        precision.unscale(optimizer)
        precision.skip()
        optimizer.zero_grad()
        scales.append(precision.state_dict()["scale"])
    assert scales == [2.0**16, 2.0**15, 2.0**14, 2.0**14]
    assert weight.item() == 3
    precision.backward(weight.sum())
    precision.unscale(optimizer)
    precision.step(optimizer)
    assert weight.item() < 3, "whoever was left out may come again"


@pytest.mark.parametrize("kind", ["off", "bf16"])
def test_leaving_an_update_out_without_a_scale_changes_nothing(kind: str) -> None:
    precision = Precision(kind, CPU)
    precision.skip()
    assert precision.state_dict() == {}
