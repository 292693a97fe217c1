"""Items of an in-batch update: captions with their images, and offline negatives beside them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from config.errors import ConfigError
from data.batches.offline_negatives import Offline
from data.batches.pairs import Array, PairIndex
from data.batches.plan import ItemPlan
from data.draws import generator, key


class Items:
    """The endless sequence of captions that in-batch training walks through, every one once an epoch.

    Whoever else is in the batch is a negative; with `offline` every item brings wrong images and texts of its own.
    """

    def __init__(self, index: PairIndex, max_txt_len: int, seed: int, offline: Offline | None = None) -> None:
        """Raises ConfigError where no caption is short enough."""
        self.index, self.seed, self.offline = index, seed, offline
        self.anchors = index.anchors(max_txt_len)
        if not len(self.anchors):
            raise ConfigError(f"max_txt_len={max_txt_len}: no caption is that short; raise it")
        self._ordered = lru_cache(maxsize=2)(self._order)
        self._key = key(seed, "items") % 2**62

    @property
    def sets(self) -> int:
        """How many images and texts each item brings."""
        return 1 if self.offline is None else 3

    def _order(self, epoch: int) -> Array:
        return generator(self.seed, "order-items", epoch).permutation(self.anchors)

    def captions(self, slots: Array) -> tuple[Array, Array]:
        """(epochs, captions) at places `slots` of the endless sequence."""
        epochs, places = np.divmod(slots, len(self.anchors))
        texts = np.empty_like(slots)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            texts[now] = self._ordered(int(epoch))[places[now]]
        return epochs, texts

    def plan(self, slots: Array) -> ItemPlan:
        """The items at successive `slots` as one plan."""
        epochs, texts = self.captions(slots)
        images = self.index.owner[texts]
        if self.offline is not None:
            drawn = self.offline.draw(epochs, texts)
            images = np.concatenate([drawn.image, drawn.image_off, drawn.image_off2])
            texts = np.concatenate([drawn.text, drawn.text_off, drawn.text_off2])
        return ItemPlan(images, texts, int(slots[0]), self.sets, self._key + slots)

    def plans(self, first: int, update: int, rank: int, size: int) -> Iterator[ItemPlan]:
        """Plans from slot `first` on, for ever: of each update's `update` items, those of `rank`.

        Where `size` does not divide them, some ranks take one more than others.
        """
        own = np.arange(update * rank // size, update * (rank + 1) // size)
        while True:
            yield self.plan(first + own)
            first += update
