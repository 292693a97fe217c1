"""Offline negatives: for each caption and its image, wrong ones from mined lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from config.errors import DataError
from data.batches.candidates import Candidates
from data.batches.false_negatives import FalseNegatives
from data.batches.owners import Owners
from data.batches.pairs import Array, PairIndex
from data.draws import generator

Coupling = Literal["shared", "independent"]


class OfflineDraw(NamedTuple):
    """Numbers `[items]` in the index: each item's pair, and two more pairs of wrong ones.

    Attributes:
        image, text: the pair that matches.
        image_off, text_off: a hard wrong image of the text, a hard wrong text of the image.
        image_off2, text_off2: the image of `text_off`, a text of `image_off`.
    """

    image: Array
    text: Array
    image_off: Array
    text_off: Array
    image_off2: Array
    text_off2: Array


class Offline:
    """Draws each caption's quintuplet anew in every epoch (Chen et al., ECCV 2020, section 3).

    Draws are keyed by (seed, epoch, caption): ranks, workers and resumes change nothing.
    """

    def __init__(
        self,
        index: PairIndex,
        candidates: Candidates,
        best: int,
        rank_ratio: int,
        coupling: Coupling,
        seed: int,
        false_negatives: FalseNegatives | None = None,
    ) -> None:
        """Draw from the `best` texts of an image and the `best / rank_ratio` images of a text.

        A candidate that is a false negative gives way to the next of its list, round and round.

        Raises:
            DataError: an image has no caption, or all that may be drawn for an image or text is a false negative.
        """
        if (bare := index.owners.without_text()).size:
            raise DataError(f"offline negatives: image {index.images[bare[0]]} has no caption to draw; leave it out")
        self.index, self.candidates, self.best = index, candidates, best
        self.rank_ratio, self.coupling, self.seed = rank_ratio, coupling, seed
        self._draws = lru_cache(maxsize=2)(self._of_epoch)
        self.false_negatives = false_negatives or FalseNegatives.none(index.owner, len(index.images))
        # What could be drawn in the run is looked for now: no draw will find nothing left.
        for left, count in (
            (self._texts_left, self.false_negatives.per_image()),
            (self._images_left, self.false_negatives.per_text()),
        ):
            queries = np.flatnonzero(count)
            left(queries, np.zeros_like(queries))

    def draw(self, epochs: Array, texts: Array) -> OfflineDraw:
        """The quintuplets of captions `texts [items]` in their epochs `[items]`."""
        rank, image_rank, which = np.empty((3, len(texts)))
        for epoch in np.unique(epochs):
            now = epochs == epoch
            rank[now], image_rank[now], which[now] = self._draws(int(epoch))[:, texts[now]]
        of_texts, of_images = (rank, rank) if self.coupling == "shared" else (rank, image_rank)
        text_rank = (of_texts * self.best).astype(np.int64)
        image_ranks = (of_images * self.best).astype(np.int64) // self.rank_ratio
        text_rank = self._texts_left(self.index.owner[texts], text_rank)
        image_ranks = self._images_left(texts, image_ranks)
        lists = self.candidates.i2t, self.candidates.t2i
        return quintuplets(self.index.owners, *lists, texts, text_rank, image_ranks, which)

    def _texts_left(self, images: Array, rank: Array) -> Array:
        """The rank of a text of each image: the drawn one, or the next that is none."""
        i2t, hold = self.candidates.i2t[:, : self.best], self.false_negatives.hold
        return passing_over(hold, i2t, images, rank, self.index.images)

    def _images_left(self, texts: Array, rank: Array) -> Array:
        """Likewise of an image of each text."""
        t2i, hold = self.candidates.t2i[:, : (self.best - 1) // self.rank_ratio + 1], self.false_negatives.hold
        return passing_over(lambda at, found: hold(found, at), t2i, texts, rank, self.index.texts)

    def _of_epoch(self, epoch: int) -> Array:
        """`[3, texts]` in [0, 1): rank among texts, rank among images, which text of the wrong image."""
        return generator(self.seed, "offline", epoch).random((3, len(self.index.texts)))


def passing_over(
    is_barred: Callable[[Array, Array], Array], lists: Array, queries: Array, rank: Array, names: Sequence[str]
) -> Array:
    """The rank of each query's candidate, or of the next one, round and round, that is none.

    Args:
        is_barred: whether queries and their candidates are false negatives, `[n]` of each.
        lists: `[all queries, k]`.
        queries, rank: `[n]`.
        names: of all queries.

    Raises:
        DataError: all candidates of a query are false negatives.
    """
    for _ in range(lists.shape[1]):
        taken = is_barred(queries, lists[queries, rank].astype(np.int64))
        if not taken.any():
            return rank
        rank = np.where(taken, (rank + 1) % lists.shape[1], rank)
    raise DataError(
        f"offline negatives: the {lists.shape[1]} best candidates of {names[queries[taken.argmax()]]} are all false "
        "negatives (mask_same_words); mine with --leave_out_same_words, or raise offline_range"
    )


def quintuplets(
    owners: Owners, i2t: Array, t2i: Array, texts: Array, text_rank: Array, image_rank: Array, which: Array
) -> OfflineDraw:
    """Look the drawn candidates up.

    Args:
        i2t, t2i: `[images, k]` wrong texts of each image and `[texts, k]` wrong images of each text, hardest first.
        texts, text_rank, image_rank: `[items]`.
        which: `[items]` in [0, 1), a place among the texts of the wrong image.
    """
    image = owners.of[texts]
    text_off, image_off = i2t[image, text_rank].astype(np.int64), t2i[texts, image_rank].astype(np.int64)
    text_off2 = owners.text_at(image_off, which)
    return OfflineDraw(image, texts, image_off, text_off, owners.of[text_off], text_off2)
