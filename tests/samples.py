"""Batches made up in memory, small matchers, and UNITER in padded form as its authors describe it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches.batch import Batch, Images, Pool, Ragged
from model.matcher import Matcher, find

SMALL = {"vocab_size": 60, "img_dim": 16, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 32, "max_position_embeddings": 64, "embed_size": 16, "word_dim": 12, "dim_hidden": 10,
         "dim_word": 8, "max_len": 7,
         "vision": {"model_type": "vit", "image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "intermediate_size": 32},
         "text": {"model_type": "bert", "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}}  # fmt: skip
"""Sizes by their published names; a matcher takes those that it knows."""
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def small(name: str, seed: int = 0, **settings: Any) -> Matcher:
    """A matcher of the given name, small, with random weights."""
    kind = find(name)
    fields = {key: value for key, value in (SMALL | settings).items() if key in kind.settings.model_fields}
    torch.manual_seed(seed)
    return kind(kind.settings(**fields))  # type: ignore[call-arg]


def lively(matcher: Matcher, seed: int = 1) -> Matcher:
    """The same with large weights, biases and norms included: a test of equality on it means something."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in matcher.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=source))
    return matcher.eval()


def images_of(lengths: list[int], dim: int, seed: int = 0, half: bool = True) -> Images:
    """Random regions and boxes."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.standard_normal((sum(lengths), dim)).astype(np.float16 if half else np.float32))
    boxes = torch.from_numpy(rng.random((sum(lengths), 7)).astype(np.float32))
    return Images(Ragged.of(features, torch.tensor(lengths)), boxes)


def pictures_of(count: int, side: int, seed: int = 0) -> Images:
    """Random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)
    return Images.of_pixels(torch.from_numpy(pixels))


def texts_of(lengths: list[int], vocabulary: int, seed: int = 0) -> Ragged:
    """Random word ids between [CLS]=2 and [SEP]=3; lengths count both."""
    rng = np.random.default_rng(seed)
    rows = [[2, *rng.integers(5, vocabulary, length - 2), 3] for length in lengths]
    return Ragged.of(torch.tensor([int(word) for row in rows for word in row]), torch.tensor(lengths))


def pools_of(images: int, texts: Ragged, anchors: int, size: int, seed: int = 0) -> Pool:
    """Random candidates; what they are worth is not asked here."""
    rng = np.random.default_rng(seed)
    image, text = (torch.from_numpy(rng.integers(0, count, (anchors, size))) for count in (images, len(texts)))
    return Pool.of(image, text, texts.lengths, "t")


def batch_for(matcher: Matcher, regions: list[int], words: list[int], anchors: int = 0, size: int = 5,
              seed: int = 0) -> Batch:
    """A batch that fits the matcher, with pools where `anchors` are asked for."""
    texts = texts_of(words, matcher.vocab_size, seed)
    pool = pools_of(len(regions), texts, anchors, size, seed) if anchors else None
    number, owner = torch.arange(len(regions)), torch.arange(len(words)) % len(regions)
    dim = matcher.image_dim
    images = pictures_of(len(regions), dim, seed) if matcher.takes_pictures else images_of(regions, dim, seed)
    return Batch(images, texts, number, owner, pool)


def padded_uniter(state: dict[str, Tensor], heads: int, activation: str, words: Tensor, word_mask: Tensor,
                  features: Tensor, boxes: Tensor, region_mask: Tensor) -> Tensor:
    """Rank scores `[n]` of n pairs in padded rectangles, one formula after the other, without dropout.

    words, word_mask [n, l]; features [n, k, d], boxes [n, k, 7], region_mask [n, k]. A padded text is followed by
    the padded regions; padding is masked in attention and its own rows are computed for nothing.
    """
    def norm(x: Tensor, name: str) -> Tensor:
        mean, spread = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(spread + 1e-12) * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    types = state["text.types.weight"]
    text = state["text.words.weight"][words] + state["text.positions.weight"][: words.shape[1]] + types[0]
    region = norm(linear(features.float(), "region.feature"), "region.feature_norm")
    region = norm(region + norm(linear(boxes, "region.box"), "region.box_norm") + types[1], "region.norm")
    x = torch.cat([norm(text, "text.norm"), region], 1)
    closed = ~torch.cat([word_mask, region_mask], 1)[:, None, None, :]
    act = {"gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), "relu": F.relu, "swish": lambda x: x * x.sigmoid()}
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    for layer in (f"encoder.layers.{number}" for number in range(depth)):
        query, key, value = (split(linear(x, f"{layer}.{part}")) for part in ("query", "key", "value"))
        weight = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(closed, -torch.inf).softmax(-1)
        x = norm(x + linear((weight @ value).transpose(1, 2).flatten(2), f"{layer}.context"), f"{layer}.attention_norm")
        inner = act[activation](linear(x, f"{layer}.expand"))
        x = norm(x + linear(inner, f"{layer}.contract"), f"{layer}.norm")
    return linear(torch.tanh(linear(x[:, 0], "pooler")), "rank").squeeze(-1)
