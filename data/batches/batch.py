"""Batches: ragged rows packed one after the other, and the pools that say which items are scored together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Direction = Literal["i", "t"]
"""Who is the anchor. "t": one caption against many images; "i": one image against many captions."""


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths in one tensor without padding.

    `values [total, ...]` lives on any device; `offsets [n + 1]` (int64) always on the host, because every
    decision about shapes is taken there and must not wait for the device.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, values: Tensor, lengths: Tensor) -> Ragged:
        """Pack `values` as sequences of the given `lengths [n]`."""
        return cls(values, offsets_of(lengths))

    @classmethod
    def cat(cls, parts: list[Ragged]) -> Ragged:
        lengths = torch.cat([part.lengths for part in parts])
        return cls.of(torch.cat([part.values for part in parts]), lengths)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Tensor:
        """Length of each sequence, `[n]` int64 on the host."""
        return self.offsets.diff()

    def rows(self, index: Tensor) -> Tensor:
        """Positions in `values` of the sequences `index [k]`, one after the other: `[sum of lengths]`."""
        return ranges(self.offsets[index], self.lengths[index])

    def select(self, index: Tensor) -> Ragged:
        """The sequences `index [k]`, copied; an index may repeat."""
        rows = self.rows(index).to(self.values.device, non_blocking=True)
        return Ragged.of(self.values.index_select(0, rows), self.lengths[index])

    def slice(self, start: int, end: int) -> Ragged:
        """The sequences from `start` up to `end`, viewed."""
        offsets = self.offsets[start : end + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def padded(self, width: int | None = None, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """`(values [n, width, ...], mask [n, width])` for whoever wants rectangles; mask is True on real positions."""
        width = int(self.lengths.max()) if width is None else width
        mask = torch.arange(width) < self.lengths[:, None]
        mask = mask.to(self.values.device)
        out = self.values.new_full((len(self), width, *self.values.shape[1:]), fill)
        out[mask] = self.values
        return out, mask

    def to(self, device: torch.device | str) -> Ragged:
        return replace(self, values=self.values.to(device, non_blocking=True))


@dataclass(frozen=True)
class Images:
    """Region features `[total, d]` (as stored, usually float16) and their boxes `[total, 7]` (float32).

    A picture is one row of its pixels: `features` are then `[n, 3, side, side]`, uint8.
    """

    features: Ragged
    boxes: Tensor

    @classmethod
    def of_pixels(cls, pixels: Tensor) -> Images:
        """Pictures `[n, 3, side, side]`."""
        no_boxes = pixels.new_zeros((len(pixels), 7), dtype=torch.float32)
        return cls(Ragged(pixels, torch.arange(len(pixels) + 1)), no_boxes)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.boxes.device

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> Tensor:
        return self.features.lengths

    def select(self, index: Tensor) -> Images:
        rows = self.features.rows(index).to(self.boxes.device, non_blocking=True)
        features = Ragged.of(self.features.values.index_select(0, rows), self.lengths[index])
        return Images(features, self.boxes.index_select(0, rows))

    def slice(self, start: int, end: int) -> Images:
        """The images from `start` up to `end`, viewed."""
        offsets = self.features.offsets
        return Images(self.features.slice(start, end), self.boxes[offsets[start] : offsets[end]])

    def to(self, device: torch.device | str) -> Images:
        return Images(self.features.to(device), self.boxes.to(device, non_blocking=True))


@dataclass(frozen=True)
class Pool:
    """Anchored candidates: row g of `image [g, m]` and `text [g, m]` are the m pairs that compete for anchor g.

    The entries count into the batch's images and texts; column 0 is the matching pair. `frame [g, 2]` remembers how
    the whole pool would be padded: the longest caption, and the last one (a published collation depends on both).
    Host tensors. All anchors are of one `direction`.
    """

    image: Tensor
    text: Tensor
    frame: Tensor
    direction: Direction

    @classmethod
    def of(cls, image: Tensor, text: Tensor, lengths: Tensor, direction: Direction) -> Pool:
        """The pool of a batch whose texts have these `lengths`."""
        words = lengths[text]
        return cls(image, text, torch.stack([words.amax(1), words[:, -1]], 1), direction)

    def columns(self, index: Tensor) -> Pool:
        """The candidates `index [g, k]` of each anchor."""
        return replace(self, image=self.image.gather(1, index), text=self.text.gather(1, index))


@dataclass(frozen=True)
class Batch:
    """Images, texts and who meets whom: the candidates of `pool`, or every image with every text without one.

    `number [images]` and `owner [texts]` (host) tell images apart: a text belongs to an image where they are equal.
    A batch in `sets` holds as many images as texts, one set after the other; image k of a set came with its text k.
    `keys` are those of the first set's items.
    """

    images: Images
    texts: Ragged
    number: Tensor
    owner: Tensor
    pool: Pool | None = None
    sets: int = 1
    keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images) * len(self.texts) if self.pool is None else self.pool.image.numel()

    @property
    def positive(self) -> Tensor:
        """`[images, texts]` bool: True where the text belongs to the image."""
        return self.number[:, None] == self.owner

    @property
    def matches(self) -> tuple[Tensor, Tensor]:
        """The pairs to be learnt, as positions of their images and texts `[k]`: of each anchor, item or text."""
        if self.pool is not None:
            return self.pool.image[:, 0], self.pool.text[:, 0]
        if self.keys is not None:
            items = torch.arange(len(self.keys))
            return items, items
        text, image = self.positive.T.nonzero(as_tuple=True)
        return image, text

    def with_pool(self, pool: Pool) -> Batch:
        """The same images and texts, met as `pool` says."""
        return replace(self, pool=pool)

    def in_sets(self, sets: int, keys: Tensor) -> Batch:
        """The same images and texts as `sets` of items keyed by `keys [items]`."""
        return replace(self, sets=sets, keys=keys)

    def hardest(self, columns: Tensor) -> Batch:
        """The same anchors with only the candidates `columns [g, k]` of their pools, and nothing else left."""
        if self.pool is None:
            raise ValueError("a batch without pools has no candidates to choose from")
        pool = self.pool.columns(columns)
        return self.select(pool.image.unique(), pool.text.unique(), pool)

    def select(self, images: Tensor, texts: Tensor, pool: Pool | None = None) -> Batch:
        """The images and texts of these ascending indices; `pool` (in the old counting) is renumbered."""
        if pool is not None:
            image, text = torch.searchsorted(images, pool.image), torch.searchsorted(texts, pool.text)
            pool = replace(pool, image=image, text=text)
        numbers = self.number[images], self.owner[texts]
        return Batch(self.images.select(images), self.texts.select(texts), *numbers, pool)

    def to(self, device: torch.device | str) -> Batch:
        return replace(self, images=self.images.to(device), texts=self.texts.to(device))


def offsets_of(lengths: Tensor) -> Tensor:
    """Where each sequence starts, and the end: `[n + 1]` int64 for `lengths [n]`."""
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The numbers start, start + 1, ... of each (start, length), one after the other: `[sum of lengths]`."""
    offsets = offsets_of(lengths)
    return torch.arange(int(offsets[-1])) + torch.repeat_interleave(starts - offsets[:-1], lengths)
