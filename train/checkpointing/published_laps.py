"""The settings of a published LAPS checkpoint, from its shapes and options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from config.errors import DataError

EYES, WORDS = "img_enc.visual_encoder.", "txt_enc.bert."
PATCHES, NET = f"{EYES}embeddings.patch_embeddings.projection.weight", "cross_net.aggr_net.weight."
HEAD_WIDTH = 64
"""Width of a head of every published ViT and BERT; shapes do not tell it."""
RECIPES = {"vit": {"sparse_ratio": 0.5, "aggr_ratio": 0.4}, "swin": {"sparse_ratio": 0.8, "aggr_ratio": 0.6}}
TAKEN = ("sparse_ratio", "aggr_ratio", "ratio_weight", "max_word")
"""Options of the authors that mean the same to our matcher."""


@dataclass(frozen=True)
class Described:
    """Settings of our matcher, and what of them neither shapes nor options told."""

    settings: dict[str, Any]
    guessed: list[str]


def describe(weights: Mapping[str, Tensor], options: Mapping[str, Any]) -> Described:
    """The settings that a published LAPS was trained with.

    Raises:
        DataError: a tensor that tells a size is missing, or sizes and ratios contradict each other.
    """
    shapes = Shapes(weights)
    swin = f"{EYES}embeddings.cls_token" not in weights
    kind, guessed = "swin" if swin else "vit", []
    if swin:
        vision, patches = shapes.swin(options.get("num_patches"))
        if not isinstance(options.get("num_patches"), int):
            guessed.append(f"image_size {vision['image_size']}: the window of the last stage is taken for all of it")
    else:
        vision, patches = shapes.vit()
    taken = {name: options[name] for name in TAKEN if isinstance(options.get(name), int | float)}
    for name, value in RECIPES[kind].items():
        if name not in taken:
            taken[name] = value
            guessed.append(f"{name} {value}: that of the published recipe for {kind}")
    rows, wanted = shapes.of(f"{NET}3.weight")[0], int(patches * taken["aggr_ratio"] * taken["sparse_ratio"])
    if rows != wanted:
        ratios = f"sparse_ratio {taken['sparse_ratio']:g} and aggr_ratio {taken['aggr_ratio']:g}"
        raise DataError(
            f"cross_net aggregates to {rows} patches, but {ratios} of {patches} patches make {wanted}; "
            "it was trained with other ratios: name them in the file's opt"
        )
    embed_size = shapes.of(f"{NET}0.weight")[0]
    return Described({"vision": vision, "text": shapes.bert(), "embed_size": embed_size, **taken}, guessed)


@dataclass(frozen=True)
class Shapes:
    """Sizes read off the shapes of published tensors."""

    weights: Mapping[str, Tensor]

    def of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that has to be there."""
        if name not in self.weights:
            raise DataError(f"lacks {name}: no whole checkpoint of LAPS; copy it again or name another system")
        return tuple(self.weights[name].shape)

    def count(self, pattern: str) -> int:
        """How many numbers there are where a pattern of names has its group."""
        found = {match[1] for match in map(re.compile(pattern).match, self.weights) if match}
        return len(found)

    def layers(self, prefix: str, width: int, query: str) -> dict[str, Any]:
        """What ViT and BERT have in common."""
        if width % HEAD_WIDTH:
            told = f"{prefix}* is {width} wide, no multiple of the {HEAD_WIDTH} of a published head"
            raise DataError(f"{told}; give --output a .safetensors file, and the settings yourself")
        stem = f"{prefix}encoder.layer."
        return {
            "hidden_size": width,
            "num_hidden_layers": self.count(re.escape(stem) + r"(\d+)\."),
            "num_attention_heads": width // HEAD_WIDTH,
            "intermediate_size": self.of(f"{stem}0.intermediate.dense.weight")[0],
        } | ({} if f"{stem}0.{query}.bias" in self.weights else {"qkv_bias": False})

    def vit(self) -> tuple[dict[str, Any], int]:
        """Settings of a ViT, and how many patches it has."""
        positions, width = self.of(f"{EYES}embeddings.position_embeddings")[1:]
        patch, grid = self.of(PATCHES)[-1], math.isqrt(positions - 1)
        layers = self.layers(EYES, width, "attention.attention.query")
        return {"model_type": "vit", **layers, "image_size": grid * patch, "patch_size": patch}, grid**2

    def swin(self, patches: object) -> tuple[dict[str, Any], int]:
        """Settings of a Swin, and how many patches it has where the options do not say so: one window."""
        stem = f"{EYES}encoder.layers."
        width, _, _, patch = self.of(PATCHES)
        stages = self.count(re.escape(stem) + r"(\d+)\.")
        tables = [self.of(f"{stem}{s}.blocks.0.attention.self.relative_position_bias_table") for s in range(stages)]
        if not tables:
            raise DataError(f"lacks {stem}*: neither a ViT nor a Swin of LAPS; name another system")
        window = (math.isqrt(tables[0][0]) + 1) // 2
        grid = math.isqrt(patches) if isinstance(patches, int) else window
        expanded = self.of(f"{stem}0.blocks.0.intermediate.dense.weight")[0]
        bias = f"{stem}0.blocks.0.attention.self.query.bias" in self.weights
        return {
            "model_type": "swin",
            "image_size": grid * patch * 2 ** (stages - 1),
            "patch_size": patch,
            "embed_dim": width,
            "depths": [self.count(re.escape(f"{stem}{stage}.blocks.") + r"(\d+)\.") for stage in range(stages)],
            "num_heads": [heads for _, heads in tables],
            "window_size": window,
            "mlp_ratio": expanded / width,
            **({} if bias else {"qkv_bias": False}),
        }, grid**2

    def bert(self) -> dict[str, Any]:
        """Settings of the text tower."""
        words, width = self.of(f"{WORDS}embeddings.word_embeddings.weight")
        return {
            "model_type": "bert",
            "vocab_size": words,
            **self.layers(WORDS, width, "attention.self.query"),
            "max_position_embeddings": self.of(f"{WORDS}embeddings.position_embeddings.weight")[0],
            "type_vocab_size": self.of(f"{WORDS}embeddings.token_type_embeddings.weight")[0],
        }
