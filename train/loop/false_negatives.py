"""Which pairs among the items of all ranks are no negatives, though they do not belong together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from config.errors import ConfigError
from config.schema import Run
from data.batches.false_negatives import Spared
from data.batches.pairs import PairIndex
from data.batches.plan import ItemPlan
from model.matcher import MatchOut
from train.distributed.comm import Comm
from train.mining.filters import same_words


def spared_pairs(index: PairIndex, run: Run) -> Spared:
    """What a run spares as negatives: images with captions of the very words of their own, or nothing.

    Raises:
        ConfigError: these pairs are to be spared, but true ones are not.
    """
    if not run.negatives.mask_same_words:
        return Spared.none(index.owner, len(index.images))
    for switch in ("mask_same_image", "mask_true_pairs"):
        if not getattr(run.objective, switch, True):
            raise ConfigError(
                f"mask_same_words spares what has the words of a true pair, but {switch} = false spares no true pair: "
                f"set {switch} to true, or mask_same_words to false"
            )
    return Spared(*same_words(index), index.owner, len(index.images))


def sparing(out: MatchOut, plan: ItemPlan, spared: Spared, comm: Comm) -> MatchOut:
    """The outcome of all ranks' items, with the pairs among them that are spared; `plan` has those of this rank."""
    if not len(spared):
        return out
    images, texts = (numbers.reshape(plan.sets, -1) for numbers in (plan.images, plan.texts))
    off = spared.hold(images[1:], texts[1:]).any(0)
    own = torch.from_numpy(np.stack([images[0], texts[0], off.astype(np.int64)], 1))
    image, text, off = comm.gather(own, "spared").numpy().T
    device = next(iter(out.scores.values())).device
    among, related = (
        torch.from_numpy(claims).to(device, non_blocking=True)
        for claims in (spared.hold(image[:, None], text), off.astype(bool))
    )
    offline = out.offline and replace(out.offline, related=out.offline.related | related)
    return replace(out, spared=among, offline=offline)
