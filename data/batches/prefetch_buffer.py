"""The memory of one batch: workers decode into it, and the trainer views it."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from data.batches.augment import WordAugment
from data.batches.batch import Batch, Images, Ragged
from data.batches.pairs import PairIndex
from data.batches.plan import Plan


@dataclass(frozen=True)
class Capacity:
    """The most regions and words that any batch of a run holds."""

    regions: int
    words: int

    @classmethod
    def of(cls, index: PairIndex, images: int, texts: int) -> Capacity:
        """Enough for any choice of so many different images and texts."""
        regions, words = np.sort(index.regions)[::-1], np.sort(index.words)[::-1]
        return cls(int(regions[:images].sum()), int(words[:texts].sum()))

    @classmethod
    def of_items(cls, index: PairIndex, items: int) -> Capacity:
        """Enough for any so many images and texts, the same ones again and again among them."""
        return cls(int(index.regions.max()) * items, int(index.words.max()) * items)


class PrefetchBuffer:
    """Memory for one batch, shared with forked workers and pinned where there is a CUDA device.

    `features [regions, *row_shape]`, `boxes [regions, 7]` and `ids [words]` hold the batch, one image or text after
    the other; `lengths` says how many ids each text has come to.
    """

    def __init__(self, capacity: Capacity, index: PairIndex, pin: bool) -> None:
        shape, dtype = (capacity.regions, *index.row_shape), index.feature_type
        texts = capacity.words // 2  # at most: each has its two marks
        sizes = (prod(shape) * dtype.itemsize, capacity.regions * 7 * 4, capacity.words * 8, texts * 8)
        self._memory = [mmap.mmap(-1, max(size, 1)) for size in sizes]
        views = [np.frombuffer(memory, np.uint8)[:size] for memory, size in zip(self._memory, sizes, strict=True)]
        self.features = views[0].view(dtype).reshape(shape)
        self.boxes = views[1].view(np.float32).reshape(capacity.regions, 7)
        self.ids, self.lengths = views[2].view(np.int64), views[3].view(np.int64)
        self._pinned = [(view.ctypes.data, view.nbytes) for view in views[:3] if pin and view.nbytes]
        for address, size in self._pinned:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, size, 0))

    def release(self) -> None:
        """Let go of page-locked memory; what was read is gone with this object."""
        for address, _ in self._pinned:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))
        self._pinned = []

    def fill(self, index: PairIndex, plan: Plan, augment: WordAugment | None = None) -> None:
        """Decode the plan's images and texts, one after the other, into this memory; `augment` alters the texts."""
        keys, lengths = plan.read_keys, index.words[plan.texts]
        index.read_images(plan.images, self.features, self.boxes, keys)
        index.read_texts(plan.texts, self.ids)
        if augment is not None and keys is not None:
            lengths = augment(self.ids, lengths, keys)
        self.lengths[: len(lengths)] = lengths

    def batch(self, index: PairIndex, plan: Plan) -> Batch:
        """A view of this memory as a batch."""
        regions, words = index.regions[plan.images], self.lengths[: len(plan.texts)]
        features = torch.from_numpy(self.features[: regions.sum()])
        boxes = torch.from_numpy(self.boxes[: regions.sum()])
        texts = Ragged.of(torch.from_numpy(self.ids[: words.sum()]), torch.from_numpy(words))
        images = Images(Ragged.of(features, torch.from_numpy(regions)), boxes)
        return plan.batch(images, texts, index.owner[plan.texts])
