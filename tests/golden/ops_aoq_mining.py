"""Offline candidates: both directions come out of the product's one pass; a case asks for one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.mining.filters import Excluded, positive_pairs
from train.mining.lists import Task, mine_lists
from train.mining.screen import choose_screen

TILE_BYTES = 1 << 10


def mine_candidates(case: Any) -> dict[str, Tensor]:
    config = case.config
    operands = torch.float16 if config["compute_dtype"] == "float16" else torch.float32
    images, texts = (case.inputs[name].to(operands) for name in ("img_emb", "cap_emb"))
    excluded = Excluded.of(positive_pairs(np.arange(len(texts)) // config["captions_per_image"]))
    wanted = (config["top_k"], 1) if config["direction"] == "i2t" else (1, config["top_k"])
    screen = choose_screen(images, texts, "float32", torch.device("cpu"))
    found = mine_lists(Task(images, texts, wanted, excluded), screen, TILE_BYTES, scored=True)
    at = 0 if config["direction"] == "i2t" else 1
    return {"indices": torch.from_numpy(found[at]).long(), "scores": torch.from_numpy(found[at + 2])}


OPS = {"mine_candidates": mine_candidates}
