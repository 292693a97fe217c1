"""Who looks at whom inside a pair: the last layer's attention among its words and its regions, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from data.batch import offsets_of
from model.transformer import EncoderLayer


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
    def turned(self) -> Blocks:
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
        start = offsets_of(self.words + self.regions)[:-1]
        word, region = torch.arange(n), torch.arange(k)
        place = torch.cat([start[:, None] + word, (start + self.words)[:, None] + region], 1)
        real = torch.cat([word < self.words[:, None], region < self.regions[:, None]], 1)
        device = self.query.device
        rows = torch.where(real, place, 0).flatten().to(device, non_blocking=True)
        real = real.to(device, non_blocking=True)
        query, key = (x[rows].view(len(start), n + k, *x.shape[1:]).transpose(1, 2) for x in (self.query, self.key))
        with torch.autocast(device.type, enabled=False):
            logits = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
            to_words = normalised(logits[..., :n], real, real[:, :n])
            to_regions = normalised(logits[..., n:], real, real[:, n:])
        counts = (count.to(device, non_blocking=True) for count in (self.words, self.regions))
        return Blocks(to_words[:, :n], to_regions[:, :n], to_words[:, n:], to_regions[:, n:], *counts)


def normalised(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax of `logits [p, heads, r, c]` over the real ones of the `columns [p, c]`, averaged over heads."""
    weights = logits.masked_fill(~columns[:, None, None], torch.finfo(logits.dtype).min).softmax(3).mean(1)
    return weights * (rows[:, :, None] & columns[:, None])
