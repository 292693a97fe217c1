"""Candidate pools of anchors: counter-based draws that do not depend on ranks, workers or resumes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from config.errors import ConfigError
from data.batches.batch import Direction
from data.batches.false_negatives import FalseNegatives
from data.batches.pairs import Array, PairIndex
from data.batches.plan import PoolPlan
from data.draws import generator

DIRECTIONS: tuple[Direction, Direction] = ("i", "t")


class HardPools:
    """The endless sequence of pools that hard-negative training walks through.

    An anchor is a caption. Direction "t" sets it against images of its source, "i" sets its image against captions of
    its source; neither ever draws a true match or a false negative (equal in distribution to redrawing, which may
    never end).
    """

    def __init__(
        self,
        index: PairIndex,
        negative_size: int,
        max_txt_len: int,
        seed: int,
        false_negatives: FalseNegatives | None = None,
    ) -> None:
        """Raises ConfigError where a source has too few candidates for a pool."""
        self.index, self.negative_size, self.seed = index, negative_size, seed
        self.false_negatives = false_negatives or FalseNegatives.none(index.owner, len(index.images))
        self.anchors = index.anchors(max_txt_len)
        if not len(self.anchors):
            raise ConfigError(f"max_txt_len={max_txt_len}: no caption is that short; raise it")
        self.order = lru_cache(maxsize=4)(self._order)
        sources = np.arange(len(index.sources) + 1)
        self._images = np.searchsorted(index.image_source, sources)
        self._captions = np.searchsorted(index.text_source[self.anchors], sources)
        self._check_sizes()

    def _check_sizes(self) -> None:
        own_images = 1 + self.false_negatives.per_text()[self.anchors].max()
        own_captions = (np.bincount(self.index.owner[self.anchors], minlength=len(self.index.images))
                        + self.false_negatives.per_image()).max()
        there = {kind: max(int(np.diff(bounds).min()) - int(own), 0) for kind, bounds, own in
                 (("images", self._images, own_images), ("captions", self._captions, own_captions))}
        kind = min(there, key=there.__getitem__)
        if there[kind] < self.negative_size:
            few = f"lower it to {there[kind]} or less, hard_neg_size with it"
            raise ConfigError(
                f"negative_size={self.negative_size}: a store has only {there[kind]} wrong {kind} for an anchor; "
                f"{few if there[kind] else 'name larger stores'}"
            )

    def _order(self, direction: Direction, epoch: int) -> Array:
        return generator(self.seed, f"order-{direction}", epoch).permutation(self.anchors)

    def anchor(self, direction: Direction, slot: int) -> tuple[int, int]:
        """(epoch, caption) at a place of the endless sequence."""
        epoch, place = divmod(slot, len(self.anchors))
        return epoch, int(self.order(direction, epoch)[place])

    def pool(self, direction: Direction, slot: int) -> tuple[Array, Array]:
        """Images and texts `[1 + negative_size]` of the pool at `slot`, the matching pair first."""
        epoch, caption = self.anchor(direction, slot)
        rng = generator(self.seed, f"pool-{direction}", epoch, caption)
        source, image = self.index.text_source[caption], self.index.owner[caption]
        if direction == "t":
            lowest, end = self._images[source : source + 2]
            banned = np.union1d(self.false_negatives.images_of(caption), [image]) - lowest
            banned = banned[(banned >= 0) & (banned < end - lowest)]
            drawn = lowest + draw_without(rng, end - lowest, self.negative_size, banned)
            images = np.concatenate([[image], drawn])
            return images, np.full_like(images, caption)
        lowest, end = self._captions[source : source + 2]
        candidates = self.anchors[lowest:end]
        own = np.concatenate([self.index.captions(int(image)), self.false_negatives.texts_of(int(image))])
        banned = np.flatnonzero(np.isin(candidates, own, assume_unique=True))
        drawn = candidates[draw_without(rng, end - lowest, self.negative_size, banned)]
        texts = np.concatenate([[caption], drawn])
        return np.full_like(texts, image), texts

    def plan(self, direction: Direction, slots: Array) -> PoolPlan:
        """The pools of several slots as one plan."""
        pools = [self.pool(direction, int(slot)) for slot in slots]
        image, text = (np.stack(part) for part in zip(*pools, strict=True))
        return PoolPlan.of(image, text, direction, int(slots[0]))

    def plans(self, first: int, update: int, mining_batch: int, rank: int, size: int) -> Iterator[PoolPlan]:
        """Plans from slot `first` on, for ever: `i` and `t` in turn, `mining_batch` anchors each.

        An update takes `update` successive slots of either direction in passes of `mining_batch` (which divides it),
        and a rank every `size`-th of them; which slots share a pass does not depend on the number of ranks.
        """
        while True:
            passes = np.arange(first, first + update).reshape(-1, mining_batch)
            for slots in passes[rank::size]:
                for direction in DIRECTIONS:
                    yield self.plan(direction, slots)
            first += update


def draw_without(rng: np.random.Generator, n: int, size: int, banned: Array) -> Array:
    """`size` different numbers below `n`, uniformly, none of the ascending `banned`."""
    drawn = rng.choice(n - len(banned), size, replace=False)
    return drawn + np.searchsorted(banned - np.arange(len(banned)), drawn, side="right")


def next_images(owner: Array, images: int, size: int) -> Array:
    """`[texts, size]`: each text's image, then the next ones in order, wrapping round (the quick validation's pools).

    Raises:
        ConfigError: there are fewer images than `size`.
    """
    if size > images:
        raise ConfigError(f"inf_minibatch_size={size}: the quick validation needs as many images, there are {images}")
    return (owner[:, None] + np.arange(size)) % images


def token_buckets(
    lengths: Array, order: Array, budget: int, bucket_size: int = 8192, size_multiple: int = 8, drop_last: bool = False
) -> list[Array]:
    """Batches of similar lengths under a budget of padded tokens (the published pre-training sampler).

    Args:
        lengths: `[n]` tokens of each item.
        order: `[n]` a permutation: the shuffle, cut into buckets of `bucket_size`.
        budget: most items x longest length of a batch.

    Raises:
        ConfigError: one chunk of `size_multiple` items is over the budget.
    """
    batches: list[Array] = []
    for start in range(0, len(order), bucket_size):
        bucket = order[start : start + bucket_size]
        bucket = bucket[np.argsort(-lengths[bucket], kind="stable")]
        longest, first = 0, 0
        for at in range(0, len(bucket), size_multiple):
            longest = max(longest, int(lengths[bucket[at]]))
            if longest * (at - first + size_multiple) <= budget:
                continue
            if at == first:
                raise ConfigError(f"token budget {budget}: {size_multiple} items of {longest} do not fit; raise it")
            batches.append(bucket[first:at])
            first = at
        if first < len(bucket) and not drop_last:
            batches.append(bucket[first:])
    return batches
