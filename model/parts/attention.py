"""The last layer's attention inside a pair, as four blocks: words and regions, each with each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from model.parts.transformer import EncoderLayer

NEVER = -1e30
"""A logit that no softmax notices."""


@dataclass(frozen=True)
class Blocks:
    """Attention of p pairs, averaged over heads, each block normalised by itself; what is padding is zero.

    As seen from the words, of which a pair has up to n, with up to k regions: `own [p, n, n]` word to word,
    `out [p, n, k]` word to region, `back [p, k, n]` region to word, `other [p, k, k]` region to region.
    Rows sum to 1. `rows [p]` and `columns [p]` count a pair's words and regions (on the device of the blocks).
    """

    own: Tensor
    out: Tensor
    back: Tensor
    other: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def transposed(self) -> Blocks:
        """The same as seen from the regions."""
        return Blocks(self.other, self.back, self.out, self.own, self.columns, self.rows)

    @cached_property
    def inside(self) -> Tensor:
        """Which entries of `own` are real: `[p, n, n]` bool."""
        real = torch.arange(self.own.shape[1], device=self.own.device) < self.rows[:, None]
        return real[:, :, None] & real[:, None, :]


@dataclass(frozen=True)
class Attention:
    """Queries and keys of p pairs at the last layer, from which the blocks follow; dropout has no part in them.

    query, key: `[total, heads, d]`, float32 or wider: the words of pair 0 without its marks, its regions, the words
        of pair 1, ...
    words, regions: `[p]` how many each pair has (host).
    """

    query: Tensor
    key: Tensor
    words: Tensor
    regions: Tensor

    @classmethod
    def of(cls, layer: EncoderLayer, states: Tensor, words: Tensor, regions: Tensor) -> Attention:
        """Project what a layer is given at those words and regions, `states [total, width]`, once for all blocks."""
        with torch.autocast(states.device.type, enabled=False):
            wide = states.to(torch.promote_types(states.dtype, torch.float32))
            query, key = layer.project(wide, layer.query, layer.key).unbind(1)
        return cls(query, key, words, regions)

    def blocks(self) -> Blocks:
        """All four blocks of all pairs from one product."""
        # A block may not be empty: a pair without words gets a column of padding, which is zero.
        n, k = max(1, int(self.words.max())), max(1, int(self.regions.max()))
        real = torch.cat([torch.arange(n) < self.words[:, None], torch.arange(k) < self.regions[:, None]], 1)
        # The padded grid, row by row, has its real places in the order in which the tokens lie packed.
        place = real.flatten().nonzero().squeeze(1).to(self.query.device, non_blocking=True)
        real, words, regions = (x.to(place.device, non_blocking=True) for x in (real, self.words, self.regions))
        with torch.autocast(place.device.type, enabled=False):
            query = padded(self.query * self.query.shape[2] ** -0.5, place, real.shape)
            # Columns before rows: a softmax along rows of memory is slow where they are short.
            logits = padded(self.key, place, real.shape).transpose(1, 2) @ query.permute(0, 2, 3, 1)
            with torch.no_grad():  # no copy is kept: what softmax gives to padding is zero, and so is its gradient
                logits.masked_fill_(~real[:, None, :, None], NEVER)
            # Each head's share of the mean, and nothing where a row is padding.
            share = real[:, :, None].to(self.query.dtype) / self.query.shape[1]
            to_words, to_regions = (
                part.softmax(2).sum(1).transpose(1, 2) * (share * columns[:, None])
                for part, columns in zip(logits.split([n, k], 2), real.split([n, k], 1), strict=True)
            )
        return Blocks(to_words[:, :n], to_regions[:, :n], to_words[:, n:], to_regions[:, n:], words, regions)


def padded(packed: Tensor, place: Tensor, shape: torch.Size) -> Tensor:
    """`packed [total, heads, d]` at `place [total]` of a grid of `shape` (p, l): `[p, l, heads, d]`, else zero."""
    grid = packed.new_zeros(shape.numel(), *packed.shape[1:])
    return grid.index_copy_(0, place, packed).view(*shape, *packed.shape[1:])
