"""One side of a split encoded in chunks: each rank encodes its share, and all ranks hold the whole."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np
import torch
from torch import Tensor

from data.batches.batch import Ragged
from data.batches.pairs import Array
from model.matcher import Side
from train.distributed.comm import Comm
from train.metrics.clock import catch_up


def encode_side(
    encode: Callable[[Array], Side], order: Array, lengths: Array, chunk: int, comm: Comm, name: str = "side"
) -> Side:
    """The items `order`, one after the other, alike on all ranks; to be called by all of them.

    A chunk is the same items whatever the number of ranks, so that sharing them out changes no bit. Only one chunk of
    each rank is in memory beside the whole.

    Args:
        lengths: how long the items of `order` are, which tells how much room the rest will take.
        chunk: items that `encode` gets at once.
    """
    parts = [order[start : start + chunk] for start in range(0, len(order), chunk)]
    done = np.cumsum(lengths)
    whole = GrowingSide()
    for first in range(0, len(parts), comm.size):
        mine = first + comm.rank
        # Who has no chunk left shows by an item of what kind its nothing is.
        part = encode(parts[mine]) if mine < len(parts) else encode(order[:1]).slice(0, 0)
        end = min((first + comm.size) * chunk, len(order))
        whole.add(gather_side(part, comm, name), end / len(order), done[end - 1] / done[-1])
    return whole.side


def gather_side(side: Side, comm: Comm, name: str) -> Side:
    """The items of all ranks, rank after rank, without gradient."""
    if comm.size == 1:
        return side
    tokens, pooled = side.tokens, side.pooled
    if tokens is not None:
        lengths = comm.gather(tokens.lengths, f"{name}.lengths")
        tokens = Ragged.of(gather_rows(tokens.values, comm, f"{name}.tokens"), lengths)
    return Side(tokens, None if pooled is None else gather_rows(pooled, comm, f"{name}.pooled"))


def gather_rows(rows: Tensor, comm: Comm, name: str) -> Tensor:
    """`[n, d]` of all ranks, of whatever type: bytes are taken by every library, bfloat16 is not."""
    catch_up(rows.device)
    return comm.gather(rows.clone(memory_format=torch.contiguous_format).view(torch.uint8), name).view(rows.dtype)


class GrowingRows:
    """Rows put one after the other into one allocation, the size of which the first of them foretell."""

    def __init__(self) -> None:
        self._room: Tensor | None = None
        self._used = 0

    def add(self, rows: Tensor, done: float) -> None:
        """Put `rows [k, ...]` behind the others; `done` is how much of everything is there with them, up to 1."""
        start, self._used = self._used, self._used + len(rows)
        if self._room is None and done == 1:
            self._room = rows
            return
        if self._room is None or self._used > len(self._room):
            room = rows.new_empty(max(self._used, ceil(self._used / done)), *rows.shape[1:])
            if self._room is not None:
                room[:start] = self._room[:start]
            self._room = room
        self._room[start : self._used] = rows

    @property
    def rows(self) -> Tensor | None:
        """All of them; None where there are none."""
        return None if self._room is None else self._room[: self._used]


class GrowingSide:
    """A side whose items are added part by part (see `GrowingRows`)."""

    def __init__(self) -> None:
        self._tokens, self._pooled = GrowingRows(), GrowingRows()
        self._lengths: list[Tensor] = []

    def add(self, part: Side, items: float, length: float) -> None:
        """Put the items of `part` behind the others; with them so much of all items and of their length is there."""
        if part.tokens is not None:
            self._tokens.add(part.tokens.values, length)
            self._lengths.append(part.tokens.lengths)
        if part.pooled is not None:
            self._pooled.add(part.pooled, items)

    @property
    def side(self) -> Side:
        """All items."""
        tokens = self._tokens.rows
        return Side(None if tokens is None else Ragged.of(tokens, torch.cat(self._lengths)), self._pooled.rows)
