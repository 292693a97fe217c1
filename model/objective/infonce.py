"""Softmax cross-entropy over pools, with the matching pair as the target."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from config.sections import Named
from data.batches.batch import Batch
from model.matcher import MatchOut
from model.objective import Objective, Term, pool_scores


class Config(Named):
    name: Literal["infonce"] = "infonce"
    temperature: float = Field(1.0, gt=0)
    """divides the raw scores; smaller is sharper"""


class InfoNCE(Objective):
    """The mean negative log-probability of the match among its pool (van den Oord et al. 2018, equation 4).

    Its gradient does not vanish while all scores are alike, as the hinge's does: weights from scratch learn with it.
    """

    settings = Config

    def __init__(self, config: Config) -> None:
        self.temperature = config.temperature

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"pools"})

    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        """The mean over anchors; `progress` changes nothing here."""
        del progress
        return {"infonce": Term(pool_cross_entropy(pool_scores(out, batch) / self.temperature))}


def pool_cross_entropy(scores: Tensor) -> Tensor:
    """Cross-entropy of `[anchors, candidates]` logits, at least float32, against column 0, averaged over anchors."""
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return F.cross_entropy(wide, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))
