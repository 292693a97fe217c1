"""The ranking hinge over pools: sigmoid scores, the matching pair against each negative."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from config.sections import Named
from data.batches.batch import Batch
from model.matcher import MatchOut
from model.objective import Objective, Term, pool_scores


class Margin(Named):
    """What every objective with this hinge can set."""

    margin: float = Field(0.2, ge=0)
    """how far the match must lead, in sigmoid scores"""


class Config(Margin):
    name: Literal["hinge"] = "hinge"


def ranking_hinge(scores: Tensor, margin: float) -> Tensor:
    """`max(0, margin + s_negative - s_positive)` of sigmoid scores, in float32 or wider.

    Args:
        scores: raw scores `[anchors, 1 + negatives]`, the matching pair in column 0.

    Returns:
        `[anchors, negatives]` (Chen et al. 2020, appendix; the mean over all is the loss).
    """
    scores = torch.sigmoid(scores.to(torch.promote_types(scores.dtype, torch.float32)))
    return (margin + scores[:, 1:] - scores[:, :1]).clamp(min=0)


def hinge_of_pools(out: MatchOut, batch: Batch, margin: float) -> Term:
    """The mean hinge over a batch's anchors and their negatives."""
    return Term(ranking_hinge(pool_scores(out, batch), margin).mean())


class Hinge(Objective):
    """The objective of a run: the mean hinge of the batch's pools."""

    settings = Config

    def __init__(self, config: Config) -> None:
        self.margin = config.margin

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"pools"})

    def plateaus(self, progress: float) -> dict[str, float]:
        """The margin."""
        del progress
        return {"hinge": self.margin}

    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        """`hinge`; `progress` changes nothing here."""
        del progress
        return {"hinge": hinge_of_pools(out, batch, self.margin)}
