"""IAIS (Ren et al., ACL 2021): the ranking hinge, and a divergence between intra-modal attention matrices.

Each matching pair's attention among its words (direction t) or its regions (direction i) is drawn towards what the
other modality says of the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from data.batches.batch import Batch
from model.matcher import MatchOut
from model.objective import Objective, Term
from model.objective.hinge import Margin, hinge_of_pools
from model.parts.attention import NEVER, Blocks

EPS = 1e-6
FLOOR = 1e-30
"""Below any weight that matters; its inverse may still be scaled up by a loss scale."""


class Config(Margin):
    name: Literal["iais"] = "iais"
    IAIS: Literal["singular", "distributed"] = "singular"
    """how the other modality speaks: by the most attended token, or by all of them"""
    tsa: Literal["exp", "linear", "log"] = "exp"
    """how the weight of the alignment grows from the first update to the last"""
    iais_reduction: Literal["sum", "mean"] = "sum"
    """alignment of an update's anchors of a rank: summed as in published runs, or averaged like the hinge"""
    iais_weight: float = Field(1.0, ge=0)
    """the alignment's weight at the end of the run; published runs have 1"""


def singular(blocks: Blocks) -> Tensor:
    """Symmetric KL divergence of `own` from `other` gathered at the tokens most attended to: `[p]`.

    The gathered weights pass through a softmax once more, as in the published program (its paper treats both sides
    alike); a pair without rows or without columns has no alignment and counts 0.
    """
    with torch.autocast(blocks.own.device.type, enabled=False):
        # A product with zeros and ones gathers exactly, and its gradient is summed in a fixed order on any device.
        chosen = F.one_hot(most_attended(blocks), blocks.out.shape[2]).to(blocks.own.dtype)
        gathered = chosen @ blocks.other @ chosen.transpose(1, 2)
        log_seen = gathered.masked_fill(~blocks.inside, NEVER).log_softmax(2)
        divergence = (blocks.own - log_seen.exp() * blocks.inside) * (log(blocks.own) - log_seen)
        return of_pairs(divergence, blocks)


def distributed(blocks: Blocks) -> Tensor:
    """Symmetric KL divergence between `own` and the way through the other modality, `out @ back`: `[p]`."""
    with torch.autocast(blocks.own.device.type, enabled=False):
        own, through = blocks.own, blocks.out @ blocks.back
        forth = through * (log(through) - torch.log(own + EPS))
        divergence = forth + own * (log(own) - torch.log(through + EPS))
        return of_pairs(divergence, blocks)


def most_attended(blocks: Blocks) -> Tensor:
    """The column that each row attends to most, `[p, n]`; a choice, through which no gradient flows."""
    return blocks.out.argmax(2)


def log(x: Tensor) -> Tensor:
    """Logarithm of weights; an underflowed one counts as FLOOR, so that 0 log 0 is 0 and every slope is finite."""
    return torch.log(x.clamp(min=FLOOR))


def of_pairs(divergence: Tensor, blocks: Blocks) -> Tensor:
    """The sum over entries `[p, n, n]` of each pair, divided by its rows; 0 without rows or columns."""
    exists = (blocks.columns > 0).to(divergence.dtype)
    return divergence.sum((1, 2)) * (exists / blocks.rows.clamp(min=1))


FORMS: dict[str, Callable[[Blocks], Tensor]] = {"singular": singular, "distributed": distributed}

ANNEALING: dict[str, Callable[[float], float]] = {
    "exp": lambda progress: math.exp(5 * (progress - 1)),
    "linear": lambda progress: progress,
    "log": lambda progress: 1 - math.exp(-5 * progress),
}
"""The weight of the alignment after a share `progress` of the run's updates (training signal annealing)."""


class Iais(Objective):
    """The hinge of the pools, and the annealed alignment of their matching pairs."""

    settings = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"attention", "pools"})

    def plateaus(self, progress: float) -> dict[str, float]:
        """The margin of the hinge."""
        del progress
        return {"hinge": self.config.margin}

    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        """`hinge`, and `iais` as the mean over anchors.

        Raises:
            ValueError: the batch has no pools, or the matcher handed over no attention.
        """
        hinge = hinge_of_pools(out, batch, self.config.margin)
        if out.attention is None or batch.pool is None:
            raise ValueError("the alignment needs the attention of the matching pairs")
        blocks = out.attention.blocks()
        aligned = FORMS[self.config.IAIS](blocks if batch.pool.direction == "t" else blocks.transposed).mean()
        weight = self.config.iais_weight * ANNEALING[self.config.tsa](progress)
        return {"hinge": hinge, "iais": Term(aligned, weight, self.config.iais_reduction == "sum")}
