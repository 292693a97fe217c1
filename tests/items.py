"""Items made up in memory: outcomes of their batches, and candidates for their offline negatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches.batch import Batch
from data.batches.candidates import MANIFEST, ORDER, Candidates
from data.batches.pairs import PairIndex
from model.matcher import MatchOut, OfflineScores, Side
from tests.samples import images_of, texts_of
from tests.support import DIM, VOCAB, config_of

VSRN = {"name": "vsrn", "vocab_size": VOCAB, "img_dim": DIM, "embed_size": 16, "word_dim": 12, "dim_hidden": 10,
        "dim_word": 8, "max_len": 7}
"""A small matcher's section."""


def random_scores(*shape: int, seed: int = 0) -> Tensor:
    """Like cosines, in float64."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


def item_outcome(scores: Tensor, owner: list[int] | None = None, offline: Tensor | None = None,
                 related: list[int] | None = None) -> MatchOut:
    """The outcome of items with `scores [n, n]`.

    Args:
        owner: the image of each item; all different where none are given.
        offline: `[4, n]` in the order of `OfflineScores`, whose items `related` bring true pairs.
    """
    n = len(scores)
    of = torch.arange(n) if owner is None else torch.tensor(owner)
    side = Side(pooled=torch.zeros(n, 1))
    true_pairs = torch.zeros(n, dtype=torch.bool)
    true_pairs[related or []] = True
    found = None if offline is None else OfflineScores(*offline, true_pairs)
    return MatchOut({"match": scores}, side, side, positive=of[:, None] == of, offline=found)


def item_batch(n: int) -> Batch:
    """A batch that an objective over items looks at only for its manners."""
    return Batch(images_of([1] * n, 2), texts_of([3] * n, 9), torch.arange(n), torch.arange(n))


def random_candidates(index: PairIndex, texts: int = 10, images: int = 2, seed: int = 0) -> Candidates:
    """Wrong texts `[images, texts]` of each image and wrong images `[texts, images]` of each text, different ones."""
    rng = np.random.default_rng(seed)
    wrong = np.arange(len(index.images))[:, None] != index.owner
    i2t = np.argsort(-(rng.random(wrong.shape) + wrong), axis=1)[:, :texts]
    t2i = np.argsort(-(rng.random(wrong.T.shape) + wrong.T), axis=1)[:, :images]
    return Candidates(i2t.astype(np.int32), t2i.astype(np.int32), {ORDER: "vouched for"})


def write_candidates(folder: Path, candidates: Candidates, order: str | None = None) -> Path:
    """Lists in the published layout, with a manifest where the `order` of their stores is given."""
    folder.mkdir()
    np.save(folder / "i2t_toy.npy", candidates.i2t, allow_pickle=False)
    np.save(folder / "t2i_toy.npy", candidates.t2i, allow_pickle=False)
    if order is not None:
        (folder / MANIFEST).write_text(json.dumps({ORDER: order}))
    return folder


def items_config(stores: tuple[Path, Path], **sections: dict[str, Any]) -> dict[str, Any]:
    """A tiny run of VSRN over items, by the triplet loss of the batch where nothing else is said."""
    config = config_of(stores, **sections)
    config["optim"].setdefault("optim", "adam")
    config["matcher"] = VSRN | sections.get("matcher", {})
    config["objective"] = {"name": "triplet"} | sections.get("objective", {})
    return config
