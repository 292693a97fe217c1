"""The plan of a batch: what it will hold, decided before any byte is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from data.batches.batch import Batch, Direction, Images, Pool, Ragged
from data.batches.pairs import Array

SET_STRIDE = 2**60
"""Between the keys of an item's sets: more than there will ever be items, and three sets of them fit into int64."""
DIGESTS = 2**63
"""Marks of plans are counted modulo this, so that they and their sums fit into int64."""


@dataclass(frozen=True)
class Plan(ABC):
    """Numbers in the index, in the order of the batch.

    Attributes:
        images, texts: what is read.
        slot: the place in the endless global sequence where the plan begins; keys whatever is drawn for it later.
    """

    images: Array
    texts: Array
    slot: int

    @property
    def read_keys(self) -> Array | None:
        """What random changes of each image, and of the text beside it, are keyed by; None where nothing may change."""
        return None

    def batch(self, images: Images, texts: Ragged, owner: Array) -> Batch:
        """The batch of what was read; `owner [texts]` are numbers of images in the index."""
        numbers = torch.from_numpy(self.images), torch.from_numpy(owner)
        return self._arranged(Batch(images, texts, *numbers))

    @property
    @abstractmethod
    def digest(self) -> int:
        """A number below 2**63 for who meets whom at which place; the sum over plans is the same however they are cut.

        Sums are taken modulo 2**63.
        """

    @abstractmethod
    def _arranged(self, batch: Batch) -> Batch:
        """The batch with what this plan says of who meets whom."""


@dataclass(frozen=True)
class PoolPlan(Plan):
    """Anchors and their candidates; images and texts ascend, each is read once.

    Attributes:
        pool_image, pool_text: `[anchors, candidates]` positions in `images` and `texts`, the matching pair first.
        direction: "t" one caption against many images, "i" one image against many captions.
    """

    pool_image: Array
    pool_text: Array
    direction: Direction

    @classmethod
    def of(cls, image: Array, text: Array, direction: Direction, slot: int) -> PoolPlan:
        """A plan for pools given as numbers in the index: `image`, `text [anchors, candidates]`."""
        images, pool_image = np.unique(image, return_inverse=True)
        texts, pool_text = np.unique(text, return_inverse=True)
        return cls(images, texts, slot, pool_image.reshape(image.shape), pool_text.reshape(text.shape), direction)

    @property
    def digest(self) -> int:
        slots = 2 * (self.slot + np.arange(len(self.pool_image))) + (self.direction == "t")
        return digest_pairs(slots[:, None], self.images[self.pool_image], self.texts[self.pool_text])

    def _arranged(self, batch: Batch) -> Batch:
        positions = torch.from_numpy(self.pool_image), torch.from_numpy(self.pool_text)
        return batch.with_pool(Pool.of(*positions, batch.texts.lengths, self.direction))


@dataclass(frozen=True)
class ItemPlan(Plan):
    """Items, each a caption and its image, in `sets` of the same length: the pairs that match, then offline negatives.

    An image that two items share is there twice: each item counts, also in what a model averages over a batch.

    Attributes:
        sets: 1, or 3 where every item brings offline negatives (see `data.batches.offline_negatives`).
        keys: `[items]`, what random draws for each item are keyed by.
    """

    sets: int
    keys: Array

    @property
    def read_keys(self) -> Array:
        """A key for each image and for the text beside it; an item's differ between its sets."""
        return (self.keys + SET_STRIDE * np.arange(self.sets)[:, None]).ravel()

    @property
    def digest(self) -> int:
        return digest_pairs(self.read_keys, self.images, self.texts)

    def _arranged(self, batch: Batch) -> Batch:
        return batch.in_sets(self.sets, torch.from_numpy(self.keys))


def digest_pairs(place: Array, image: Array, text: Array) -> int:
    """The sum over pairs, modulo 2**63, of numbers that a change in any of the three changes altogether."""
    mixed = place.astype(np.uint64)
    for part in (image, text):
        mixed = scramble(mixed) + part.astype(np.uint64)
    return int(scramble(mixed).sum(dtype=np.uint64)) % DIGESTS


def scramble(values: Array) -> Array:
    """Each of the uint64 `values` far from where it was: SplitMix64's finaliser (Steele et al. 2014, figure 15)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
