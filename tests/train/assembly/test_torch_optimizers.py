"""They do what torch's do, and leave its compiler alone."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, optim

from tests.support import ROOT
from train.assembly import torch_optimizers

KINDS = ("Adam", "AdamW", "Adamax")
ALONE = """
import sys, torch
from train.assembly import optim, torch_optimizers
weight = torch.nn.Parameter(torch.ones(3))
for made in (torch_optimizers.{kind}([weight], lr=0.1), optim.AdamW([weight], 0.1, (0.9, 0.999), 1e-6)):
    weight.grad = torch.ones(3)
    made.step()
    made.load_state_dict(made.state_dict())
    made.zero_grad()
print(weight.grad, "torch._dynamo" in sys.modules)
"""


def after_steps(kind: type[optim.Optimizer], fused: bool) -> tuple[Tensor, dict[str, Any]]:
    """Weights and state, saved and loaded on the way."""
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    how: dict[str, Any] = {"fused": True} if fused else {}
    made = kind([{"params": [weight]}], lr=0.1, **how)
    for step in range(4):
        weight.grad = torch.full((7,), 0.5 - step) * weight.detach()
        made.step()
        made.zero_grad()
        assert weight.grad is None
        kept = copy.deepcopy(made.state_dict())
        made = kind([weight], lr=0.7, **how)
        made.load_state_dict(kept)
    return weight.detach(), made.state_dict()


@pytest.mark.parametrize(("kind", "fused"), [*((kind, False) for kind in KINDS), ("Adam", True), ("AdamW", True)])
def test_updates_and_states_are_those_of_torch(kind: str, fused: bool) -> None:
    ours, our_state = after_steps(getattr(torch_optimizers, kind), fused)
    theirs, their_state = after_steps(getattr(optim, kind), fused)
    assert torch.equal(ours, theirs)
    assert repr(our_state) == repr(their_state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiler_is_not_imported(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE.format(kind=kind)], cwd=ROOT, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.stdout == "None False\n", done.stderr
