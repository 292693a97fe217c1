"""The triplet hinge over a batch of items, in both directions (Faghri et al., BMVC 2018)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from config.sections import Named
from data.batches.batch import Batch
from model.matcher import MatchOut
from model.objective import Objective, Term


class OfItems(Named):
    """What every hinge over items can set."""

    max_violation: bool = True
    """only the hardest negative of each item counts, instead of the sum over all"""
    hardest_from: float = Field(0.0, ge=0, le=1)
    """share of the run before which all negatives count all the same; small models from scratch collapse without"""
    mask_same_image: bool = True
    """another caption of an item's own image is no negative; false = it is one, as published"""

    def hardest(self, progress: float) -> bool:
        """Whether only the hardest negatives count at this point of the run."""
        return self.max_violation and progress >= self.hardest_from


class Ramped(Named):
    """What every objective that may begin gently can set."""

    ramp: float = Field(0.0, ge=0, le=1)
    """share of the run over which the loss rises from nothing to its full weight; 0 = it has that from the start"""

    def risen(self, progress: float) -> float | None:
        """The weight of the loss at this point of the run; None where none was asked for."""
        return min(1.0, progress / self.ramp) if self.ramp else None


class Config(OfItems, Ramped):
    name: Literal["triplet"] = "triplet"
    margin: float = Field(0.2, ge=0)
    """how far the match must lead"""


class Rivals(NamedTuple):
    """The scores of a batch as a hinge sees them, in float32 or wider.

    Attributes:
        match: `[n]`, each item's own score.
        scores: `[n, n]`; those that are no negatives are lower than any by more than the margin.
        of_image, of_text: `[n]`, the highest negative of each image (a text) and of each text (an image).
    """

    match: Tensor
    scores: Tensor
    of_image: Tensor
    of_text: Tensor


class Hinges(NamedTuple):
    """`[margin + negative - match]+` from images and from texts: `[n]` of the hardest negatives, `[n, n]` of all."""

    of_image: Tensor
    of_text: Tensor


def item_scores(out: MatchOut) -> Tensor:
    """Scores `[n, n]` of a batch of items, in float32 or wider; raises ValueError for another kind of batch."""
    if out.positive is None or out.positive.shape[0] != out.positive.shape[1]:
        raise ValueError("this objective compares the items of a batch; the batch has none")
    scores = next(iter(out.scores.values()))
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def rivals(out: MatchOut, margin: float, mask_same_image: bool) -> Rivals:
    """Who competes with whom in a batch of items."""
    scores = item_scores(out)
    assert out.positive is not None
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    barred = out.with_false_negatives(out.positive | own if mask_same_image else own)
    lowest = scores.detach().amin() - margin - 1
    others = scores.masked_fill(barred, lowest)
    return Rivals(scores.diagonal(), others, others.max(1).values, others.max(0).values)


def hinges(found: Rivals, margin: float, hardest: bool) -> Hinges:
    """What each item pays for its hardest negative, or for all."""
    match = found.match
    if hardest:
        return Hinges((margin + found.of_image - match).clamp(min=0), (margin + found.of_text - match).clamp(min=0))
    each = margin + found.scores
    return Hinges((each - match[:, None]).clamp(min=0), (each - match[None, :]).clamp(min=0))


def ramped(sums: dict[str, Tensor], config: Ramped, progress: float) -> dict[str, Term]:
    """Sums over items as terms, at their weight of the moment, which is logged as `ramp` where there is one."""
    weight = config.risen(progress)
    terms = {name: Term(value, weight, summed=True) for name, value in sums.items()}
    if weight is not None:
        terms["ramp"] = Term(torch.tensor(weight), counted=False)
    return terms


class Triplet(Objective):
    """The sum over items of both hinges; the published first round of VSRN and BFAN."""

    settings = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items"})

    def plateaus(self, progress: float) -> dict[str, float]:
        """The margin, once the hardest count alone and with their full weight."""
        told = self.config.hardest(progress) and self.config.risen(progress) in (None, 1.0)
        return dict.fromkeys(("online_i", "online_t"), self.config.margin) if told else {}

    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        """`online_i` of images, `online_t` of texts.

        `progress` says how far the loss has risen, and whether the hardest alone count yet.
        """
        del batch
        config = self.config
        among = rivals(out, config.margin, config.mask_same_image)
        found = hinges(among, config.margin, config.hardest(progress))
        return ramped({"online_i": found.of_image.sum(), "online_t": found.of_text.sum()}, config, progress)
