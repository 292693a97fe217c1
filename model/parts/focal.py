"""BFAN's similarity (Liu et al., ACM MM 2019): attention in both directions, without the weak fragments.

An attended vector is a weighted sum of context rows, and only its angle to the query is asked for. That angle follows
from the products of queries with context rows and from the Gram matrix of the context rows alone, so no attended
vector is ever made: all images meet all texts in one matrix product, which both directions share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data.batches.batch import Ragged
from model.parts.layers import pad_ragged, upcast

EPS, TINY = 1e-8, 1e-30
SLOPE = 0.1
ROUNDING = 1e-5
"""How far below the largest weight an average may lie by rounding alone: of one query, most weights are equal."""
TILE = {"cpu": 2**18, "cuda": 2**23}
"""Products in a tile: 1 MiB for each thread of a processor, which its cache holds, or 32 MiB of a GPU."""
PADDED = 1.25
"""Most rows of a block, its padding included, for each real one."""
PAIR_VALUES = 2**24
"""Most numbers gathered at a time for listed pairs: 64 MiB."""


@dataclass(frozen=True)
class Focus:
    """How attention is shared out, and what is left out of it.

    Attributes:
        kind: a context row is kept if its weight is above the average ("equal"), or above the average that weighs
            each by the root of its weight ("prob").
        scale: the factor before the softmax.
        empty: all weights being equal, none is above the average: keep all of them ("unmasked"), or answer NaN as
            the published system does.
    """

    kind: Literal["equal", "prob"]
    scale: float
    empty: Literal["unmasked", "nan"]


@dataclass(frozen=True)
class Block:
    """Items of like length, position by position.

    Attributes:
        rows: `[s, n, d]`, zero where an item is shorter than s.
        gram: `[n, s, s]` products of an item's rows with each other.
        norms: `[s, n]` length of each row.
        closed: `[s, n]`, what keeps a softmax away from padding: -inf where there is no row, else 0; None where all
            items have s rows.
        counts: `[n]` how many rows an item has, in the type of the rows.
    """

    rows: Tensor
    gram: Tensor
    norms: Tensor
    closed: Tensor | None
    counts: Tensor

    @classmethod
    def of(cls, items: Ragged) -> Block:
        values, mask = pad_ragged(Ragged(upcast(items.values), items.offsets))
        counts = items.lengths.to(values.device, values.dtype, non_blocking=True)
        norms = torch.linalg.vector_norm(values, dim=2).T
        closed = None if mask is None else torch.zeros_like(norms).masked_fill(~mask.T, -torch.inf)
        return cls(values.transpose(0, 1).contiguous(), values @ values.transpose(1, 2), norms, closed, counts)

    def select(self, index: Tensor) -> Block:
        """The items `index [k]` (on the device of the rows), copied."""
        closed = None if self.closed is None else self.closed.index_select(1, index)
        rows, norms = self.rows.index_select(1, index), self.norms.index_select(1, index)
        return Block(rows, self.gram.index_select(0, index), norms, closed, self.counts.index_select(0, index))


def all_pairs(images: Ragged, texts: Ragged, focus: Focus) -> Tensor:
    """Similarities `[images, texts]`, from -2 to 2, of regions `[total, d]` and words `[total, d]`.

    Computed tile by tile, and tile by tile again for the gradient: beside the sides, no more than one tile is held.
    """
    with torch.autocast(images.values.device.type, enabled=False):
        (rows, back), (blocks, across) = _blocks(images), _blocks(texts)
        columns = list(blocks)
        scores = torch.cat([torch.cat([_recomputed(partial(_tile, a, b, focus)) for b in columns], 1) for a in rows])
        return scores.index_select(0, back).index_select(1, across)


def listed_pairs(images: Ragged, texts: Ragged, image: Tensor, text: Tensor, focus: Focus) -> Tensor:
    """Similarities `[p]` of the pairs (`image[p]`, `text[p]`), host indices into the two sides."""
    with torch.autocast(images.values.device.type, enabled=False):
        left, right = Block.of(images), Block.of(texts)
        image, text = (index.to(left.rows.device, non_blocking=True) for index in (image, text))
        most = max(1, PAIR_VALUES // ((len(left.rows) + len(right.rows)) * left.rows.shape[2]))
        parts = zip(image.split(most), text.split(most), strict=True)
        return torch.cat([_recomputed(partial(_aligned, left, right, a, b, focus)) for a, b in parts])


def _recomputed(part: Callable[[], Tensor]) -> Tensor:
    """Its value; what its gradient needs is computed a second time instead of kept."""
    if not torch.is_grad_enabled():
        return part()
    return checkpoint(part, use_reentrant=False, preserve_rng_state=False)


def _blocks(side: Ragged) -> tuple[Iterator[Block], Tensor]:
    """The items in blocks of like length, made one by one, and where each went: `[n]` on the device of the rows."""
    device, lengths = side.values.device, side.lengths
    order = torch.argsort(lengths, stable=True)
    cuts = _cuts(lengths[order], _rows_of_a_tile(device.type))
    same = int(lengths.min()) == int(lengths.max())
    parts = (side.slice(start, end) if same else side.select(order[start:end]) for start, end in cuts)
    return map(Block.of, parts), torch.argsort(order).to(device, non_blocking=True)


def _rows_of_a_tile(device: str) -> int:
    """Most rows of either side in a tile."""
    threads = torch.get_num_threads() if device == "cpu" else 1
    return math.isqrt(TILE.get(device, TILE["cuda"]) * threads)


def _cuts(lengths: Tensor, most: int) -> Iterator[tuple[int, int]]:
    """Where to cut items of these ascending lengths into blocks of at most `most` rows with little padding."""
    start = 0
    while start < len(lengths):
        rest = lengths[start : start + most]
        padded = torch.arange(1, len(rest) + 1) * rest
        fits = (padded <= most) & (padded <= PADDED * rest.cumsum(0))
        end = start + max(1, int(fits.cumprod(0).sum()))
        yield start, end
        start = end


def _tile(images: Block, texts: Block, focus: Focus) -> Tensor:
    """Similarities `[n, m]` of every image of a block with every text of another."""
    (s, n), (q, m) = images.norms.shape, texts.norms.shape
    products = images.rows.flatten(0, 1) @ texts.rows.flatten(0, 1).T
    by_words = _attended(products.view(s, n, q, m), images, texts.norms[None], focus) / texts.counts
    turned = products.T.contiguous().view(q, m, s, n)
    return by_words + (_attended(turned, texts, images.norms[None], focus) / images.counts).T


def _aligned(images: Block, texts: Block, image: Tensor, text: Tensor, focus: Focus) -> Tensor:
    """Similarities `[p]` of image `image[p]` with text `text[p]`."""
    images, texts = images.select(image), texts.select(text)
    products = (images.rows.transpose(0, 1) @ texts.rows.permute(1, 2, 0)).transpose(0, 1)[..., None]
    by_words = _attended(products, images, texts.norms.T[..., None], focus)[:, 0] / texts.counts
    turned = products.transpose(0, 2)
    return by_words + _attended(turned, texts, images.norms.T[..., None], focus)[:, 0] / images.counts


def _attended(products: Tensor, context: Block, norms: Tensor, focus: Focus) -> Tensor:
    """How well queries are met by what they attend to: cosines summed over the q rows of each query item, `[n, m]`.

    Args:
        products: `[s, n, q, m]` of each context row with each query row; zero at padding of either.
        context: n items.
        norms: lengths of the query rows, `[n or 1, q, m]`; a row of zeros (padding) adds nothing to the sum.
    """
    s, n, q, m = products.shape
    bent = F.leaky_relu(products, SLOPE)
    # The root has no gradient at zero; a sum of squares is much faster than a norm along a middle axis.
    sizes = bent.square().sum(2, keepdim=True).clamp(min=TINY).sqrt()
    logits = bent * (focus.scale / (sizes + EPS))
    if context.closed is not None:
        logits = logits + context.closed[:, :, None, None]
    # The sum under a softmax cancels in the cosine. The largest weight is 1 and always kept.
    weights = (logits - logits.detach().amax(0)).exp()
    kept, nothing = _kept(weights.detach(), context.counts[:, None, None], focus)
    weights = weights * kept
    along = (weights * products).sum(0)
    mixed = (context.gram @ weights.transpose(0, 1).flatten(2)).view(n, s, q, m).transpose(0, 1)
    length = (weights * mixed).sum(0).clamp(min=EPS**2).sqrt()
    cosines = along / (norms * length).clamp(min=EPS)
    if focus.empty == "nan":
        cosines = cosines.masked_fill(nothing & (norms > 0), torch.nan)
    return cosines.sum(1)


def _kept(weights: Tensor, counts: Tensor, focus: Focus) -> tuple[Tensor, Tensor]:
    """Which `weights [s, n, q, m]` count, and for which queries `[n, q, m]` none was above the average.

    The largest of the s weights is 1, so that the average reaches 1 only where all are equal. All count there, and
    where only rounding tells the large ones apart.
    """
    if focus.kind == "equal":
        average = weights.sum(0) / counts
    else:
        roots = weights.sqrt()
        average = (weights * roots).sum(0) / roots.sum(0)
    return weights > average.masked_fill(average >= 1 - ROUNDING, -1.0), average >= 1
