"""BFAN's encoders and its similarity: published names in, the product's own modules, published names out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from data.batches.batch import Ragged
from model import conversion
from model.bfan import Bfan, Config
from model.loading import load_part
from model.parts.focal import Focus, all_pairs
from tests.golden.run import sibling

vsrn = sibling("ops_aoq_vsrn")
Tensors = dict[str, Tensor]


def build(case: Any, prefix: str) -> Bfan:
    """The matcher with the weights of one of its published parts."""
    fields = {"vocab_size": 8, "img_dim": 8, "embed_size": 8, "word_dim": 8}
    fields |= {name: value for name, value in case.config.items() if name in Config.model_fields}
    model = Bfan(Config(**fields))
    loaded = load_part(model, "bfan", {prefix + name: tensor for name, tensor in case.weights.items()})
    assert not loaded.ignored, loaded.ignored
    return model.eval()


def gradients(model: Bfan, prefix: str) -> Tensors:
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = conversion.to_published("bfan", ours)
    return {f"grad.{name.removeprefix(prefix)}": grad for name, grad in found.items()}


def image_embed(case: Any) -> Tensors:
    model = build(case, "img_enc.")
    regions = model.encode_image(vsrn.images_of(case.inputs["regions"])).rows.padded()[0]
    (regions * case.inputs["cotangent"]).sum().backward()
    return {"img_emb": regions, **gradients(model, "img_enc.")}


def text_embed(case: Any) -> Tensors:
    model, ids = build(case, "txt_enc."), case.inputs["token_ids"]
    words = model.encode_text(vsrn.texts_of(ids, case.inputs["lengths"])).rows.padded(ids.shape[1])[0]
    (words * case.inputs["cotangent"]).sum().backward()
    return {"cap_emb": words, **gradients(model, "txt_enc.")}


def focus_of(config: dict[str, Any]) -> Focus:
    return Focus(config["focal_type"], config["lambda_softmax"], config.get("focal_empty", "unmasked"))


def sides_of(regions: Tensor, words: Tensor, lengths: Tensor) -> tuple[Ragged, Ragged]:
    """Published rectangles of regions and (padded) words, packed."""
    return vsrn.packed_rows(regions), vsrn.texts_of(words, lengths)


def similarity(case: Any) -> Tensors:
    regions, words = (case.inputs[name].clone().requires_grad_() for name in ("regions", "words"))
    sims = all_pairs(*sides_of(regions, words, case.inputs["lengths"]), focus_of(case.config))
    (sims * case.inputs["cotangent"]).sum().backward()
    return {"sims": sims, "grad.regions": regions.grad, "grad.words": words.grad}


OPS = {
    "bfan_image_embed": image_embed,
    "bfan_text_embed": text_embed,
    "bfan_similarity": similarity,
}
