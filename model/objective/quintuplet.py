"""The adaptive offline quintuplet loss (Chen et al., ECCV 2020): in-batch and offline hard negatives.

An item's online negatives weigh less the harder its offline ones are. Switched off one after the other, the parts give
the published ablation: `adaptive` (AOQ without it: OffQuin), `pairs` (without it too: OffTri), `triplets` (the triplet
loss of the batch).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from data.batches.batch import Batch
from model.matcher import MatchOut, OfflineScores
from model.objective import Objective, Term
from model.objective.triplet import Hinges, OfItems, Rivals, hinges, rivals


class Config(OfItems):
    name: Literal["quintuplet"] = "quintuplet"
    margin_online: float = Field(0.2, ge=0)
    """how far the match must lead before negatives of the batch"""
    margin_offline: float = Field(0.0, ge=0)
    """how far the match must lead before offline negatives"""
    alpha: float = Field(0.3, gt=0)
    """how much harder an offline negative must be to take one from the weight of the online term"""
    beta: float = 1.5
    """weight of the online term where both negatives are equally hard"""
    triplets: bool = True
    """an item against its wrong text and its wrong image"""
    pairs: bool = True
    """the match against pairs of an offline image and an offline text"""
    adaptive: bool = True
    """weigh the online terms; false = 1"""
    detach_weights: bool = False
    """no gradient flows through the weights"""
    clamp_weights: bool = False
    """weights below 0, which reward a violation, count as 0"""
    mask_true_pairs: bool = True
    """an offline image and text that belong together are no negative; false = they are one, as published"""
    sum_weight_axis: Literal["rows", "columns"] = "rows"
    """where all negatives count: weigh an image's negatives by its own weight, or by their texts', as published"""


class Weights(NamedTuple):
    """Weights `[n]` of the online terms of images and of texts."""

    of_image: Tensor
    of_text: Tensor


class Costs(NamedTuple):
    """What each item pays, after weighting and before the sum; names say which negative is to blame.

    `online_*` are `[n]`, or `[n, n]` without max_violation; the others `[n]`.
    """

    online_i: Tensor
    online_t: Tensor
    offline_text: Tensor
    offline_image: Tensor
    offline_both: Tensor
    offline_kin: Tensor


def adaptive_weights(found: Rivals, offline: OfflineScores, config: Config) -> Weights:
    """`beta - (offline - online) / alpha` of each item's hardest negatives, as the options have them."""
    of_image = config.beta - (offline.text - found.of_image) / config.alpha
    of_text = config.beta - (offline.image - found.of_text) / config.alpha
    if config.clamp_weights:
        of_image, of_text = of_image.clamp(min=0), of_text.clamp(min=0)
    return Weights(of_image.detach(), of_text.detach()) if config.detach_weights else Weights(of_image, of_text)


def weighted(online: Hinges, weights: Weights, config: Config) -> Hinges:
    """The online terms by their weights."""
    if online.of_image.ndim == 1:
        return Hinges(online.of_image * weights.of_image, online.of_text * weights.of_text)
    row = weights.of_image[:, None] if config.sum_weight_axis == "rows" else weights.of_image
    return Hinges(online.of_image * row, online.of_text * weights.of_text)


def costs(found: Rivals, offline: OfflineScores, config: Config, progress: float = 1.0) -> tuple[Costs, Weights]:
    """All six terms, and the weights that are in them."""
    online = hinges(found, config.margin_online, config.hardest(progress))
    weights = Weights(torch.ones_like(found.match), torch.ones_like(found.match))
    if config.adaptive:
        weights = adaptive_weights(found, offline, config)
        online = weighted(online, weights, config)
    four = torch.stack([offline.text, offline.image, offline.both, offline.kin])
    text, image, both, kin = (config.margin_offline + four - found.match).clamp(min=0)
    if config.mask_true_pairs:
        both, kin = both.masked_fill(offline.related, 0), kin.masked_fill(offline.related, 0)
    return Costs(*online, text, image, both, kin), weights


class Quintuplet(Objective):
    """The sum over items of all terms that are switched on."""

    settings = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"items", "offline"})

    def plateaus(self, progress: float) -> dict[str, float]:
        """The online margin, at the weight that it has where both negatives are equally hard."""
        config = self.config
        cost = config.margin_online * (config.beta if config.adaptive else 1.0)
        return dict.fromkeys(("online_i", "online_t"), cost) if config.hardest(progress) else {}

    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        """The terms by the names of `Costs`, and what is worth watching of them; `progress` as in the triplet loss."""
        del batch
        if out.offline is None:
            raise ValueError("this objective needs offline negatives; the batch has none")
        config = self.config
        found = rivals(out, config.margin_online, config.mask_same_image)
        paid, weights = costs(found, as_wide(out.offline, found.match.dtype), config, progress)
        off = {"offline_text", "offline_image"} if not config.triplets else set()
        off |= {"offline_both", "offline_kin"} if not config.pairs else set()
        named = {name: cost for name, cost in paid._asdict().items() if name not in off}
        terms = {name: Term(cost.sum(), summed=True) for name, cost in named.items()}
        watched = watch(found, out.offline, weights) | {f"{name}_active": share(c != 0) for name, c in named.items()}
        return terms | {name: Term(value.detach(), counted=False) for name, value in watched.items()}


def as_wide(offline: OfflineScores, dtype: torch.dtype) -> OfflineScores:
    """The same scores in the type that the loss is computed in."""
    text, image, both, kin = (score.to(dtype) for score in (offline.text, offline.image, offline.both, offline.kin))
    return OfflineScores(text, image, both, kin, offline.related)


def watch(found: Rivals, offline: OfflineScores, weights: Weights) -> dict[str, Tensor]:
    """What tells whether the loss does what it should: weights, how hard either kind of negative is, true pairs."""
    both = torch.cat(weights)
    return {
        "weight_i": weights.of_image.mean(),
        "weight_t": weights.of_text.mean(),
        "negative_weights": share(both < 0),
        "match": found.match.mean(),
        "offline_ahead": (offline.text - found.of_image).mean(),
        "related_pairs": share(offline.related),
    }


def share(claim: Tensor) -> Tensor:
    """How many of a tensor's claims are true, 0 to 1."""
    return claim.float().mean()
