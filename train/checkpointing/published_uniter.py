"""The settings of published UNITER weights, from their shapes; all heads are 64 wide."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from config.errors import DataError
from model.conversion import modern
from train.checkpointing.published_laps import HEAD_WIDTH, Described

LAYER = re.compile(r"uniter\.encoder\.layer\.(\d+)\.")
SHAPES = {
    "uniter.embeddings.word_embeddings.weight": ("vocab_size", "hidden_size"),
    "uniter.embeddings.position_embeddings.weight": ("max_position_embeddings",),
    "uniter.embeddings.token_type_embeddings.weight": ("type_vocab_size",),
    "uniter.img_embeddings.img_linear.weight": ("hidden_size", "img_dim"),
    "uniter.encoder.layer.0.intermediate.dense.weight": ("intermediate_size",),
}
"""Settings that the shapes of published tensors are."""


def describe(weights: Mapping[str, Tensor]) -> Described:
    """The settings of a published UNITER.

    Raises:
        DataError: a tensor that tells a size is missing.
    """
    named = {modern(name): tensor for name, tensor in weights.items()}
    lacking = [name for name in SHAPES if name not in named]
    if lacking:
        raise DataError(f"lacks {lacking[0]}: no whole checkpoint of UNITER; copy it again or name another system")
    found = {key: size for name, keys in SHAPES.items() for key, size in zip(keys, named[name].shape, strict=False)}
    heads = max(1, found["hidden_size"] // HEAD_WIDTH)
    layers = len({match[1] for match in map(LAYER.match, named) if match})
    guessed = [f"num_attention_heads {heads}: those of every published UNITER are {HEAD_WIDTH} wide"]
    return Described(found | {"num_hidden_layers": layers, "num_attention_heads": heads}, guessed)
