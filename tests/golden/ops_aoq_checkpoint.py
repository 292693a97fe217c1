"""Published checkpoint files: built from their own options, loaded, and asked for embeddings and scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.loading import Loaded, load
from tests.golden.run import sibling
from train.checkpointing.published import build_matcher, read_published

vsrn = sibling("ops_aoq_vsrn")
Tensors = dict[str, Tensor]


@torch.no_grad()
def load_checkpoint(case: Any) -> Tensors:
    family, inputs = case.config["family"], case.inputs
    published = read_published(case.folder / case.config["file"])
    model = build_matcher(family, published).eval()
    assert load(model, family, published.weights) == Loaded([], [])
    images = model.encode_image(vsrn.images_of(inputs["regions"]))
    texts = model.encode_text(vsrn.texts_of(inputs["token_ids"], inputs["lengths"]))
    facts = {name: torch.tensor(published.facts[name]) for name in ("epoch", "Eiters")}
    facts["best_rsum"] = torch.tensor(published.facts["best_rsum"], dtype=torch.float32)
    if family == "vsrn":
        return {"img_emb": images.pooled, "cap_emb": texts.pooled} | facts
    words = texts.rows.padded(inputs["token_ids"].shape[1])[0]
    return {"img_emb": images.rows.padded()[0], "cap_emb": words, "sims": model.score(images, texts)} | facts


OPS = {"load_checkpoint": load_checkpoint}
