"""What the ops of LAPS share: a matcher's settings and batches from what the published cases say."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from config.sections import Named
from data.batches.batch import Batch, Images, Ragged
from model.matcher import find

SILENT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Every case runs without dropout, whatever its tower's own settings say; so it runs without dropping paths."""
PARITY = {"infer_cls_from_square": True, "extra_token": "zero"}
"""The sides that switches take in all cases; no case names them."""
OWN = ("embed_size", "sparse_ratio", "aggr_ratio", "ratio_weight", "max_word")
SMALL_TEXT = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
              "intermediate_size": 8, "max_position_embeddings": 128}  # fmt: skip


def settings_of(config: dict[str, Any]) -> Named:
    """Published options as the matcher's own; towers that a case does not name do not matter to it and are small."""
    swin = "swin" in config.get("vit_type", "vit")
    vision = {"model_type": "swin" if swin else "vit", **config.get("vision_config", small_vision(config)), **SILENT}
    text = {"model_type": "bert", **config.get("text_config", SMALL_TEXT), **SILENT}
    named = {name: config[name] for name in OWN if name in config}
    vision |= {"drop_path_rate": 0.0} if swin else {}
    return find("laps").settings(name="laps", vision=vision, text=text, **named, **PARITY)  # type: ignore[call-arg]


def small_vision(config: dict[str, Any]) -> dict[str, Any]:
    """A ViT of as many patches as the case has, which must be a square number."""
    side = math.isqrt(config.get("num_patches", 16))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return sizes | {"image_size": side, "patch_size": 1}


def batch_of(images: Tensor, captions: Tensor, lengths: Tensor, img_ids: Tensor) -> Batch:
    """Items of pictures `[n, 3, h, w]` (float, scaled and normalised) and padded captions `[n, t]`."""
    real = torch.arange(captions.shape[1]) < lengths[:, None]
    texts = Ragged.of(captions[real], lengths)
    batch = Batch(Images.of_pixels(images), texts, img_ids, img_ids)
    return batch.in_sets(1, torch.arange(len(images)))


OPS: dict[str, Any] = {}
