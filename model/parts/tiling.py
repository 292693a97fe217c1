"""LAPS's similarities of all pairs in tiles, each computed again in the backward pass.

Between the two nothing of a pair is kept, so that memory grows with images and texts instead of with their pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from model.parts.slimming import Captions, Gradients, Pictures, Rule, Shapes, Tile

TILE = {"cpu": 2**20, "cuda": 2**25}
"""Weights of patches in a tile: 4 MiB of a processor's cache, or 128 MiB of a GPU."""
ALIKE = 16
"""Texts of a tile that images can fill: few, so that they are of like length and little is padded."""


def similarities(pictures: Pictures, captions: Captions, rule: Rule) -> Tensor:
    """Similarities `[n, m]`, from -0.2 to 2, with gradient in patches, logits, whole and words."""
    found: Tensor = _Similarities.apply(
        pictures.patches, pictures.logits, pictures.whole, captions.words, pictures, captions, rule
    )
    return found


class _Similarities(Function):
    """Tiles forward, and the same tiles again backward, which autograd calls outside of autocast.

    The last three arguments bring what has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, patches: Tensor, logits: Tensor, whole: Tensor | None, words: Tensor,
        pictures: Pictures, captions: Captions, rule: Rule,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(patches, logits, whole, words)
        ctx.constants = pictures.bias, pictures.sway, captions.lengths, captions.queries, rule
        found = patches.new_empty(len(patches), len(words))
        for rows, shapes, columns, some in tiles(pictures, captions):
            tile = Tile(shapes, some, rule)
            found[rows, columns] = tile.similarities(tile.cosines)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        patches, logits, whole, words = ctx.saved_tensors
        bias, sway, lengths, queries, rule = ctx.constants
        sums = Gradients.zeros(patches, logits, whole, words)
        everyone = Pictures(patches, logits, whole, bias, sway), Captions(words, lengths, queries)
        for rows, shapes, columns, some in tiles(*everyone):
            Tile(shapes, some, rule).backward(grad[rows, columns], sums.of(rows, columns, some))
        sums.through_gram(patches)
        return sums.patches, sums.logits, sums.whole, sums.words, None, None, None


def tiles(pictures: Pictures, captions: Captions) -> Iterator[tuple[slice, Shapes, slice, Captions]]:
    """All pairs in tiles: some images (rows), and some texts of like length (columns)."""
    images, aggregated, patches = pictures.logits.shape
    texts, words = captions.words.shape[:2]
    room = max(1, TILE[pictures.patches.device.type] // (max(aggregated + 1, words) * patches))
    most = min(max(ALIKE, room // images), room, texts)
    width = -(-texts // -(-texts // most))  # as many tiles, of even widths
    height = max(1, room // width)
    for top in range(0, images, height):
        rows = slice(top, min(top + height, images))
        shapes = Shapes.of(pictures.slice(rows))
        for left in range(0, texts, width):
            columns = slice(left, min(left + width, texts))
            yield rows, shapes, columns, captions.slice(columns)
