"""Exact dot products of short-listed pairs: float64, and a fixed order of summation where two are still equal.

A float64 sum of `d` products in any order is off by at most `d * 2**-53 * |x| |y|`, so only scores closer than twice
that need the fixed order: the products are folded in halves until one number is left, elementwise, so that device,
number of threads and what else is computed beside them change no bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FOLDED_AT_ONCE = 512
"""Pairs whose products are folded together: these stay in the nearest cache."""
POOL_ROWS = 2048
"""Rows of the pool that are doubled at a time."""
PIECE = 128
"""Columns that are multiplied at a time, so that as many rows of the pool stay in the cache."""


@dataclass(frozen=True)
class Shortlists:
    """Candidates of each query, in no order: those of query q are `chosen[offsets[q]:offsets[q + 1]]`."""

    offsets: Tensor
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        return self.offsets.diff()

    @property
    def queries(self) -> Tensor:
        """`[candidates]`, whose each is."""
        return torch.arange(len(self), device=self.chosen.device).repeat_interleave(self.counts)

    def to(self, device: torch.device) -> Shortlists:
        """The same where it is computed on."""
        return Shortlists(self.offsets.to(device), self.chosen.to(device))

    @classmethod
    def of(cls, counts: Tensor, chosen: Tensor) -> Shortlists:
        """Shortlists of these lengths, one after the other."""
        return cls(torch.nn.functional.pad(counts.cumsum(0), (1, 0)), chosen)

    @classmethod
    def cat(cls, parts: list[Shortlists]) -> Shortlists:
        """The queries of all parts, in their order."""
        return cls.of(torch.cat([part.counts for part in parts]), torch.cat([part.chosen for part in parts]))


def dot_in_order(left: Tensor, right: Tensor) -> Tensor:
    """Dot products `[pairs]` of the rows of `left` and `right` (`[pairs, d]` float32), always summed in one order."""
    parts = [_fold(*pair) for pair in zip(left.split(FOLDED_AT_ONCE), right.split(FOLDED_AT_ONCE), strict=True)]
    return torch.cat(parts) if parts else left.new_zeros(0, dtype=torch.float64)


def _fold(left: Tensor, right: Tensor) -> Tensor:
    width = 1 << max(left.shape[1] - 1, 0).bit_length()
    products = left.new_zeros(len(left), width, dtype=torch.float64)
    torch.mul(left.double(), right.double(), out=products[:, : left.shape[1]])
    while width > 1:
        width //= 2
        products = products[:, :width] + products[:, width : 2 * width]
    return products.squeeze(1)


def score_in_float64(queries: Tensor, pool: Tensor, lists: Shortlists) -> Tensor:
    """Float64 dot products `[candidates]` of each query `[q, d]` with its candidates among the rows of `pool`.

    The pool is doubled a few rows at a time, whose candidates lie together after a sort of small keys.
    """
    parts = -(-len(pool) // POOL_ROWS)
    left, whose = split_columns(queries), lists.queries
    scores = torch.empty(len(lists.chosen), dtype=torch.float64, device=queries.device)
    for part, places in enumerate(_sorted_into(lists.chosen // POOL_ROWS, parts)):
        if len(places):
            first = part * POOL_ROWS
            right = split_columns(pool[first : first + POOL_ROWS].to(queries.device))
            scores[places] = _sampled(left, right, whose[places], lists.chosen[places] - first)
    return scores


def split_columns(rows: Tensor) -> Tensor:
    """`[pieces, rows, PIECE]` float64 of `rows [n, d]`, zero beyond d."""
    n, width = rows.shape
    whole = width // PIECE
    out = torch.empty(-(-width // PIECE), n, PIECE, dtype=torch.float64, device=rows.device)
    out[:whole] = rows[:, : whole * PIECE].view(n, whole, PIECE).transpose(0, 1)
    if whole < len(out):
        out[whole, :, : width - whole * PIECE] = rows[:, whole * PIECE :]
        out[whole, :, width - whole * PIECE :] = 0
    return out


def _sorted_into(keys: Tensor, parts: int) -> Iterator[Tensor]:
    """The places of each key 0 .. parts - 1, ascending."""
    # A stable sort of 16 bits is a radix sort in numpy: a tenth of the time of one of 64 bits.
    small = keys.cpu().numpy().astype(np.uint16 if parts <= 1 << 16 else np.int64)
    order = torch.from_numpy(np.argsort(small, kind="stable")).to(keys.device)
    return iter(order.split(np.bincount(small, minlength=parts).tolist()))


def _sampled(left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Products of rows given in `split_columns`, at the places (`row` ascending, `column`)."""
    size = left.shape[1], right.shape[1]
    offsets = torch.nn.functional.pad(torch.bincount(row, minlength=size[0]).cumsum(0), (1, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        sums = torch.sparse_csr_tensor(offsets, column, left.new_zeros(len(row)), size, check_invariants=False)
        for one, other in zip(left, right, strict=True):
            sums = torch.sparse.sampled_addmm(sums, one, other.T)
    return sums.values()


def order_exactly(
    queries: Tensor, pool: Tensor, lists: Shortlists, most: int, longest: float, ceiling: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best candidates of each query by exact score, equal scores by ascending place in the pool.

    Args:
        queries: `[q, d]` float32 on the device that computes; pool: `[p, d]` float32.
        lists: every candidate that may be among the best, on the same device.
        most: how many are wanted of each.
        longest: the norm of the longest row of the pool, or more.
        ceiling: `[q]` float64, the highest score that counts; None lets every score count.

    Returns:
        places in the pool `[q, most]` int64 and scores `[q, most]` float64, best first; and how many of `[q]` count,
        which is less than `most` where fewer were there (then the rest of a row is -1 and -inf).
    """
    scores = score_in_float64(queries, pool, lists)
    # Twice the bound above; the norms are float32 themselves, hence the part in a thousand.
    tolerance = 2.002 * queries.shape[1] * 2.0**-53 * longest * queries.norm(dim=1).double()
    whose = lists.queries
    if ceiling is not None:
        beside = ((scores - ceiling[whose]).abs() <= tolerance[whose]).nonzero().squeeze(1)
        scores[beside] = score_in_order(queries, pool, whose[beside], lists.chosen[beside])
        scores[scores > ceiling[whose]] = -torch.inf
    width = max(most, int(lists.counts.max())) if len(lists) else most
    column = torch.arange(len(whose), device=whose.device) - lists.offsets[whose]
    table = scores.new_full((len(lists), width), -torch.inf)
    names = lists.chosen.new_full((len(lists), width), -1)
    table[whose, column], names[whose, column] = scores, lists.chosen
    best, order = table.sort(dim=1, descending=True)
    ranked = names.gather(1, order)
    _settle_close(queries, pool, best, ranked, tolerance)
    ranked.masked_fill_(best == -torch.inf, -1)
    return ranked[:, :most], best[:, :most], (best > -torch.inf).sum(1)


def score_in_order(queries: Tensor, pool: Tensor, query: Tensor, place: Tensor) -> Tensor:
    """Exact scores of the pairs (`query`, `place`)."""
    pairs = zip(query.split(FOLDED_AT_ONCE), place.split(FOLDED_AT_ONCE), strict=True)
    parts = [_fold(queries[left], pool[right.to(pool.device)].to(queries.device)) for left, right in pairs]
    return torch.cat(parts) if parts else queries.new_zeros(0, dtype=torch.float64)


def _settle_close(queries: Tensor, pool: Tensor, best: Tensor, ranked: Tensor, tolerance: Tensor) -> None:
    """Order those whose scores are too close to tell by scores in the fixed order, then by place; in the tables."""
    alike = best[:, :-1] - best[:, 1:] <= tolerance[:, None]  # nothing beside nothing is -inf - -inf: never alike
    pad = torch.nn.functional.pad
    close = pad(alike, (0, 1)) | pad(alike, (1, 0))
    rows = close.any(1).nonzero().squeeze(1)
    if not len(rows):
        return
    row, column = close[rows].nonzero().unbind(1)
    scores, names = best[rows], ranked[rows]
    scores[row, column] = score_in_order(queries, pool, rows[row], names[row, column])
    by_name = names.argsort(dim=1)
    scores, names = scores.gather(1, by_name), names.gather(1, by_name)
    best[rows], order = scores.sort(dim=1, descending=True, stable=True)
    ranked[rows] = names.gather(1, order)
