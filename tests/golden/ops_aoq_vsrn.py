"""VSRN's encoders and its caption branch: published names in, the product's own modules, published names out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches.batch import Images, Ragged
from data.batches.pairs import PairIndex, Source
from model import conversion
from model.loading import load_part
from model.parts.captioning import Captioner, Targets
from model.vsrn import Config, Vsrn

Tensors = dict[str, Tensor]
IMAGE, TEXT, CAPTION = "img_enc.", "txt_enc.", "caption_model."
OWN = {
    "img_dim", "embed_size", "vocab_size", "word_dim", "num_layers", "no_imgnorm", "use_abs", "max_len", "dim_hidden",
    "dim_word", "input_dropout_p",
}  # fmt: skip


def settings_of(config: dict[str, Any]) -> Config:
    """Published options as the matcher's own; what a case does not name does not matter to it and is small."""
    fields = {"vocab_size": 8, "img_dim": 8, "embed_size": 8, "word_dim": 8, "dim_hidden": 8, "dim_word": 8}
    fields |= {name: value for name, value in config.items() if name in OWN}
    if "dim_vid" in config:
        fields["embed_size"] = config["dim_vid"]
    variant = "F" if config.get("data_name") == "f30k_precomp" else "C"
    dropout = config.get("input_dropout_p", config.get("dropout", 0.0))
    fields |= {"bidirectional": bool(config.get("bidirectional", 0)), "input_dropout_p": dropout}
    return Config(**fields, variant=variant)


def build(case: Any, prefix: str) -> Vsrn:
    """The matcher with the weights of one of its published parts."""
    torch.manual_seed(0)
    model = Vsrn(settings_of(case.config))
    loaded = load_part(model, "vsrn", {prefix + name: tensor for name, tensor in case.weights.items()})
    assert not loaded.ignored, loaded.ignored
    return model


def published(model: Vsrn, prefix: str, label: str, tensors: Tensors) -> Tensors:
    """Our tensors under `label` and their published names, those of one published part."""
    found = conversion.to_published("vsrn", tensors)
    return {label + name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def gradients(model: Vsrn, prefix: str) -> Tensors:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return published(model, prefix, "grad.", found)


def packed_rows(rows: Tensor) -> Ragged:
    """A published rectangle as sequences of equal length."""
    return Ragged.of(rows.flatten(0, 1), torch.full((len(rows),), rows.shape[1]))


def images_of(rows: Tensor) -> Images:
    features = packed_rows(rows)
    return Images(features, torch.zeros(len(features.values), 7))


def texts_of(ids: Tensor, lengths: Tensor) -> Ragged:
    return Ragged.of(ids[torch.arange(ids.shape[1]) < lengths[:, None]], lengths)


def image_embed(case: Any) -> Tensors:
    model = build(case, IMAGE).train(case.config["train_mode"])
    side = model.encode_image(images_of(case.inputs["regions"]))
    assert side.pooled is not None
    (side.pooled * case.inputs["cotangent"]).sum().backward()
    out = {"img_emb": side.pooled, **gradients(model, IMAGE)}
    if case.config["train_mode"]:
        out |= published(model, IMAGE, "buffer_after.", dict(model.named_buffers()))
    return out | {"gcn_emb": reasoned(case, case.inputs["regions"])}


@torch.no_grad()
def reasoned(case: Any, regions: Tensor) -> Tensor:
    """The regions after the graph; a side holds them in training only, so the graph is asked itself."""
    model = build(case, IMAGE).train(case.config["train_mode"])
    features = images_of(regions).features
    return model.reason(Ragged(model.regions(features.values), features.offsets)).padded()[0]


def text_embed(case: Any) -> Tensors:
    model = build(case, TEXT).eval()
    embedded = model.encode_text(texts_of(case.inputs["token_ids"], case.inputs["lengths"])).pooled
    assert embedded is not None
    (embedded * case.inputs["cotangent"]).sum().backward()
    return {"cap_emb": embedded, **gradients(model, TEXT)}


def caption_loss(case: Any) -> Tensors:
    model = build(case, CAPTION).train()
    assert isinstance(model.caption, Captioner)
    rows, labels = case.inputs["gcn_emb"].clone().requires_grad_(), case.inputs["labels"]
    pairs = torch.arange(len(rows))
    out = model.caption(packed_rows(rows), pairs, Targets(labels, case.inputs["masks"].bool()), pairs)
    out.loss.backward()
    log_probs = torch.zeros(len(rows), labels.shape[1] - 2, out.log_probs.shape[1])
    log_probs[out.steps.order[out.steps.pair], out.steps.time] = out.log_probs.detach()
    return {"loss": out.loss, "logprobs": log_probs, "grad.gcn_emb": rows.grad, **gradients(model, CAPTION)}


def caption_targets(case: Any) -> Tensors:
    index = index_of(case.inputs["word_ids"], case.inputs["word_lengths"], case.config)
    ids = np.empty(index.words.sum(), np.int64)
    index.read_texts(range(len(index.texts)), ids)
    texts = Ragged.of(torch.from_numpy(ids), torch.from_numpy(index.words))
    targets = Targets.of(texts, case.config["max_len"])
    return {
        "token_ids": texts.padded(fill=case.config["pad_id"])[0],
        "lengths": texts.lengths,
        "labels": targets.labels,
        "masks": targets.masks.float(),
    }


def index_of(words: Tensor, lengths: Tensor, config: dict[str, Any]) -> PairIndex:
    """The product's index over a store of these words, each caption with the one image that there is."""
    names = [str(number) for number in range(len(words))]
    texts = SimpleNamespace(
        meta={},
        open=lambda: None,
        ids=names,
        images=["only"] * len(names),
        image_order=["only"],
        lengths=lengths.numpy(),
        special=SimpleNamespace(cls=config["start_id"], sep=config["end_id"]),
        tokens=lambda name: words[int(name), : lengths[int(name)]].numpy(),
    )
    images = SimpleNamespace(meta={}, counts=lambda _: np.ones(1, np.int64))
    return PairIndex([Source(texts, images)])  # type: ignore[arg-type]


OPS = {
    "vsrn_image_embed": image_embed,
    "vsrn_text_embed": text_embed,
    "vsrn_caption_loss": caption_loss,
    "caption_targets": caption_targets,
}
# A step whose label is masked is free: it need not be run.
MASKS = {"logprobs": lambda inputs: inputs["masks"][:, 1:-1]}
