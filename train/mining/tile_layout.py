"""The layout of tiles: how both sides are cut, and the parts that a screen multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from data.batches.pairs import Array
from train.mining.filters import Excluded
from train.mining.running_top_k import GROUP
from train.mining.screen import Norms, Screen

ALIGNED = 32 * GROUP
"""Columns whose groups lie a whole number of vectors apart; others take twice as long to read."""


@dataclass(frozen=True)
class TileLayout:
    """`size` rows from `start` on, cut into `parts` of every parts-th row, each padded to a multiple of rows.

    Each part is a fair sample of all rows, whatever their order.
    """

    start: int
    size: int
    parts: int
    multiple: int = GROUP

    @classmethod
    def of(cls, rows: range, most: int, aligned: bool = False) -> TileLayout:
        """Parts of at most `most` rows; `aligned` ones have a width that whole vectors fit into."""
        aligned = aligned and ALIGNED <= most < len(rows)
        most = most // ALIGNED * ALIGNED if aligned else max(1, most)
        return cls(rows.start, len(rows), max(1, -(-len(rows) // most)), ALIGNED if aligned else GROUP)

    @property
    def padded(self) -> int:
        return -(-self.size // (self.parts * self.multiple)) * self.multiple

    def rows(self, part: int) -> range:
        """Which rows a part holds."""
        return range(self.start + part, self.start + self.size, self.parts)

    def find(self, rows: Array) -> tuple[Array, Array]:
        """(part, place within it) of rows."""
        return (rows - self.start) % self.parts, (rows - self.start) // self.parts


@dataclass
class ScreenedSide:
    """One side of the product: its rows `[rows, d]`, and how many candidates of the other side each of them wants."""

    values: Tensor
    cut: TileLayout
    scale: float
    screen: Screen
    most: int

    @cached_property
    def norms(self) -> Norms:
        """Of all rows, as the screen scales them."""
        return self.screen.norms(self.values, self.scale)

    @property
    def unrounded(self) -> Norms:
        """The same where nothing is rounded, as a float32 screen has it."""
        return Norms(self.norms.whole, self.norms.whole, torch.zeros_like(self.norms.lost))

    def part(self, number: int, out: Tensor | None = None) -> Tensor:
        """A part `[padded, d]` as the screen takes it, zero beyond its rows."""
        rows = self.cut.rows(number)
        if out is None:
            out = self.buffer()
        out[len(rows) :] = 0
        torch.mul(self.taken(rows), self.scale, out=out[: len(rows)])
        return out

    def buffer(self) -> Tensor:
        """Room for a part."""
        return torch.empty(self.cut.padded, self.values.shape[1], dtype=self.screen.dtype, device=self.screen.device)

    def taken(self, rows: range) -> Tensor:
        """These rows where the screen computes."""
        return self.values[rows.start : rows.stop : rows.step].to(self.screen.device).float()


class TileMask:
    """Where in each tile stand pairs that are no candidates."""

    def __init__(self, excluded: Excluded, images: TileLayout, texts: TileLayout, device: torch.device) -> None:
        block, row = images.find(excluded.image)
        tile, column = texts.find(excluded.text)
        key = block * texts.parts + tile
        order = np.argsort(key, kind="stable")
        self._first = np.searchsorted(key[order], np.arange(images.parts * texts.parts + 1))
        self._flat = torch.from_numpy((row * texts.padded + column)[order]).to(device)
        self._columns = texts.parts

    def of(self, block: int, tile: int) -> Tensor:
        """Flat places in the tile."""
        number = block * self._columns + tile
        return self._flat[self._first[number] : self._first[number + 1]]
