"""Triplets with distance-weighted negatives (Wu et al., ICCV 2017).

Scores count as cosines: those above 1, which a sum of two similarities reaches, have no distance and are never drawn.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from data.batches.batch import Batch, Direction
from model.matcher import MatchOut
from model.objective import Objective, Term
from model.objective.triplet import Ramped, item_scores, ramped

MIXERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""The two odd factors of splitmix64 (Steele et al. 2014) as signed numbers; they wrap around."""
GOLDEN = -0x61C8864680B583EB
"""2^64 over the golden ratio, signed: steps of it spread evenly."""
SALTS = {"i": 0, "t": GOLDEN}
"""What keeps the draws for anchors that are images apart from those for texts."""


class Config(Ramped):
    name: Literal["distance_weighted"] = "distance_weighted"
    margin: float = Field(0.2, ge=0)
    """how far the match must lead before the negative that was drawn"""
    cut_off: float = Field(0.5, gt=0, lt=2)
    """nearer negatives are drawn as if they were at this distance"""
    farthest: float = Field(1.7, gt=0, le=2)
    """negatives at this distance or beyond are not drawn; published runs have 1.9 on COCO"""
    dimension: int = Field(512, ge=2)
    """of the space over whose sphere distances are taken to be spread"""


def chances(scores: Tensor, barred: Tensor, config: Config) -> Tensor:
    """How likely the anchor of each row is to draw each column: `[n, n]`, a row sums to 1, or to 0 without any.

    A weight is the inverse of how often a distance occurs between points of a sphere. What is not finite and what is no
    negative takes part in the row's maximum as log 1, as published.

    Args:
        scores: `[n, n]`, float32 or wider; no gradient flows through.
        barred: `[n, n]` bool, the pairs that are no negatives.
    """
    scores, d = scores.detach(), config.dimension
    distance = (2 - 2 * scores).sqrt().clamp(min=config.cut_off)
    log_weight = (2 - d) * distance.log() - (d - 3) / 2 * (1 - distance**2 / 4).log()
    log_weight = log_weight.masked_fill(~log_weight.isfinite() | barred, 0)
    drawable = ~barred & (distance < config.farthest)
    weight = (log_weight - log_weight.amax(1, keepdim=True)).exp() * drawable
    return weight / (weight.sum(1, keepdim=True) + 1e-20)


def drawn(chance: Tensor, pairs: Tensor, keys: Tensor, way: Direction) -> Tensor:
    """A column for each pair, drawn by the chances of its anchor.

    Columns run a race with exponential times, of which each wins as often as it is likely to. A time is keyed by the
    keys of anchor, match and column: on any rank, in any order of the items, the same is drawn.

    Args:
        chance: `[n, n]`.
        pairs: `[p, 2]`, the row of each pair and its column.
        keys: `[n]` int64, on the device of `chance`.

    Returns:
        `[p]`; any column where no chance is above 0.
    """
    anchor, match = keys[pairs].unbind(1)
    of_pair = mixed(mixed(anchor ^ SALTS[way]) ^ match)
    time = -uniform(of_pair[:, None] ^ keys).log()
    return (chance[pairs[:, 0]] / time).argmax(1)


def uniform(keys: Tensor) -> Tensor:
    """A number above 0 and below 1 (float64) for each int64 key, the same on every machine."""
    return ((mixed(keys) >> 12 & 2**52 - 1).double() + 0.5) / 2**52


def mixed(x: Tensor) -> Tensor:
    """The finishing steps of splitmix64 on int64, shifted as if it had no sign."""
    x = x + GOLDEN
    for shift, factor in zip((30, 27), MIXERS, strict=True):
        x = (x ^ (x >> shift & 2 ** (64 - shift) - 1)) * factor
    return x ^ (x >> 31 & 2**33 - 1)


def costs(scores: Tensor, pairs: Tensor, negative: Tensor, margin: float) -> Tensor:
    """`[margin + negative - match]+` of each pair `[p, 2]` and the column `[p]` that was drawn for it."""
    anchor, match = pairs.unbind(1)
    return (margin + scores[anchor, negative] - scores[anchor, match]).clamp(min=0)


class DistanceWeighted(Objective):
    """The sum over matching pairs of both hinges; a pair whose anchor has nobody to draw is left out."""

    settings = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items"})

    def plateaus(self, progress: float) -> dict[str, float]:
        """The margin, once it counts with its full weight."""
        told = self.config.risen(progress) in (None, 1.0)
        return dict.fromkeys(("drawn_i", "drawn_t"), self.config.margin) if told else {}

    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        """`drawn_i` of images, `drawn_t` of texts, and in the log the share of pairs that were left out."""
        del batch
        scores = item_scores(out)
        if out.keys is None:
            raise ValueError("this objective draws negatives by the keys of items; the batch has none")
        assert out.positive is not None
        keys, config = out.keys.to(scores.device, non_blocking=True), self.config
        true, barred = out.positive, out.with_false_negatives(out.positive)
        sides: dict[Direction, tuple[Tensor, ...]] = {"i": (scores, true, barred), "t": (scores.T, true.T, barred.T)}
        sums, missed = {}, []
        for way, (rows, matching, no_negative) in sides.items():
            chance, pairs = chances(rows, no_negative, config), matching.nonzero()
            negative = drawn(chance, pairs, keys, way)
            none = chance[pairs[:, 0], negative] == 0
            sums[f"drawn_{way}"] = costs(rows, pairs, negative, config.margin).masked_fill(none, 0).sum()
            missed.append(none.float().mean())
        undrawn = Term(torch.stack(missed).mean(), counted=False)
        return ramped(sums, config, progress) | {"undrawn": undrawn}
