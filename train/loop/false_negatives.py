"""False negatives among the items of all ranks, found and masked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from config.errors import ConfigError
from config.schema import Run
from data.batches.false_negatives import FalseNegatives
from data.batches.pairs import PairIndex
from data.batches.plan import ItemPlan
from model.matcher import MatchOut
from train.distributed.comm import Comm
from train.mining.filters import same_word_pairs


def find_false_negatives(index: PairIndex, run: Run) -> FalseNegatives:
    """The false negatives of a run: images with captions of the same words as their own, or none.

    Raises:
        ConfigError: false negatives are to be masked, but true pairs are not.
    """
    if not run.negatives.mask_same_words:
        return FalseNegatives.none(index.owner, len(index.images))
    for switch in ("mask_same_image", "mask_true_pairs"):
        if not getattr(run.objective, switch, True):
            raise ConfigError(
                f"mask_same_words spares what has the words of a true pair, but {switch} = false spares no true pair: "
                f"set {switch} to true, or mask_same_words to false"
            )
    return FalseNegatives(*same_word_pairs(index), index.owner, len(index.images))


def mask_false_negatives(out: MatchOut, plan: ItemPlan, false_negatives: FalseNegatives, comm: Comm) -> MatchOut:
    """The scores of all ranks' items, with the false negatives among them; `plan` has the items of this rank."""
    if not len(false_negatives):
        return out
    images, texts = (numbers.reshape(plan.sets, -1) for numbers in (plan.images, plan.texts))
    off = false_negatives.hold(images[1:], texts[1:]).any(0)
    own = torch.from_numpy(np.stack([images[0], texts[0], off.astype(np.int64)], 1))
    image, text, off = comm.gather(own, "false_negatives").numpy().T
    device = next(iter(out.scores.values())).device
    among, related = (
        torch.from_numpy(claims).to(device, non_blocking=True)
        for claims in (false_negatives.hold(image[:, None], text), off.astype(bool))
    )
    offline = out.offline and replace(out.offline, related=out.offline.related | related)
    return replace(out, false_negatives=among, offline=offline)
