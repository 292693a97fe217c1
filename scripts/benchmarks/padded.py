"""The peer of the packed encoder: the same weights on padded rectangles with an additive mask, as published."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.parts.transformer import Encoder, EncoderLayer
from model.uniter import Uniter


def additive(mask: Tensor) -> Tensor:
    """`[b, 1, 1, l]`: 0 on real positions of `mask [b, l]`, the lowest number elsewhere."""
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)[:, None, None]


def layer(weights: EncoderLayer, x: Tensor, mask: Tensor) -> Tensor:
    """One encoder layer over all positions of `x [b, l, d]`, padding included; no dropout."""
    b, length, width = x.shape
    flat = x.reshape(b * length, width)
    query, key, value = weights.qkv(flat).view(b, length, 3, weights.heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return weights.after(flat, mixed.transpose(1, 2).reshape(b * length, width)).view(b, length, width)


def encode(encoder: Encoder, x: Tensor, mask: Tensor) -> Tensor:
    """All layers over `x [b, l, d]` with the additive `mask`."""
    for weights in encoder.layers:
        x = layer(weights, x, mask)  # type: ignore[arg-type]
    return x


def scores(model: Uniter, words: Tensor, features: Tensor, boxes: Tensor, real: Tensor) -> Tensor:
    """Scores `[b]` of one caption with each of b padded images, everything computed for this call.

    Args:
        words: `[t]` ids.
        features, boxes: `[b, n, d]` and `[b, n, 7]` float32.
        real: `[b, n]`, True on real regions.
    """
    b, n = real.shape
    ids = words.expand(b, -1)
    text = model.text(ids.flatten(), torch.arange(len(words)).repeat(b)).view(b, len(words), -1)
    regions = model.region(features.flatten(0, 1), boxes.flatten(0, 1), model.text.types.weight[1]).view(b, n, -1)
    mask = torch.cat([torch.ones_like(ids, dtype=torch.bool), real], 1)
    x = encode(model.encoder, torch.cat([text, regions], 1), additive(mask))
    return model.rank(torch.tanh(model.pooler(x[:, 0]))).squeeze(1)
