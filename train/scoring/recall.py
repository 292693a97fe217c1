"""Ranks and recalls of a score matrix, in both directions, with explicit handling of ties.

Rows are images and columns are texts; `owner[t]` is the row of the image that text t describes. An image
may have any number of texts. One pass over blocks of rows counts, for every query, the wrong candidates scored above
its positive, those scored equal to it, and which of these have a smaller index; every rank and recall follows
from these counts. A pair that was not scored has -inf; a positive without a score stands behind all others, however
ties are counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError, DataError

Ties = Literal["pessimistic", "optimistic", "mean", "index"]
IrCount = Literal["correct", "legacy"]
MedianRank = Literal["exact", "floor"]
Array = NDArray[Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TOP = (1, 5, 10)
_BLOCK_ROWS = 255  # so that column counts of a block fit in uint8, which numpy adds fastest
_BLOCK_VALUES = 1 << 21  # a few blocks of this size are all the memory taken beside the matrix


@dataclass(frozen=True)
class Counts:
    """For each query: the wrong candidates above its best positive, those equal to it, and of these the ones whose
    index is smaller than that of the (first) best positive; [queries]. All are above a positive without a score."""

    above: Ints
    equal: Ints
    before: Ints

    def ranks(self, ties: Ties = "pessimistic") -> Floats:
        """Ranks from 0 (first): a tied positive stands last, first or in the middle of its tie, or where it is listed.

        "index" is the order of a stable sort: the best right answer is preceded by what scores more and by what
        scores the same and is listed earlier.
        """
        if ties not in get_args(Ties):
            raise ConfigError(f"ties: {ties!r} is not known; give one of {', '.join(get_args(Ties))}")
        ahead: dict[Ties, Array] = {"pessimistic": self.equal, "optimistic": np.zeros_like(self.equal),
                                    "mean": self.equal / 2, "index": self.before}
        return np.asarray(self.above + ahead[ties], np.float64)

    def touches_top(self, top: int = TOP[-1]) -> NDArray[np.bool_]:
        """Where a tie could move the positive within, into or out of the first `top` places."""
        return (self.equal > 0) & (self.above < top)


def count(scores: Array, owner: Array) -> tuple[Counts, Counts]:
    """Counts of the image queries (each with its best text), then of the text queries.

    scores: [images, texts], any float type, a memory map too; owner: [texts], rows of scores. An image
    without a text is no query: entry n of the first counts belongs to image `np.unique(owner)[n]`.
    Raises DataError for shapes that do not fit, an owner outside the matrix, or a NaN among the scores.
    """
    owner = _checked(scores, owner)
    images, texts = scores.shape
    positive = _single(scores[owner, np.arange(texts)])
    best = np.full(images, -np.inf, positive.dtype)
    np.maximum.at(best, owner, positive)
    winners = np.flatnonzero(positive == best[owner])  # right texts as high as the best one are no rivals
    own = np.bincount(owner[winners], minlength=images)
    first = np.full(images, texts)
    np.minimum.at(first, owner[winners], winners)
    of_images, of_texts = (Counts(*np.zeros((3, queries), np.int64)) for queries in (images, texts))
    for rows in _blocks(images, texts):
        block = _single(scores[rows])
        _refuse_nan(block, rows.start)
        of_images.above[rows] = np.count_nonzero(block > best[rows, None], axis=1)
        not_below = np.count_nonzero(block >= best[rows, None], axis=1)
        of_images.equal[rows] = not_below - of_images.above[rows] - own[rows]
        of_images.before[rows] = _before_in_rows(block, best[rows], first[rows], of_images.equal[rows])
        above, equal = _count_down(block > positive), _count_down(block >= positive)
        equal -= above
        of_texts.above[:] += above
        of_texts.equal[:] += equal
        of_texts.before[:] += _before_in_columns(block, positive, owner - rows.start, equal)
    of_texts.equal[:] -= 1  # a text's own image
    _put_last(of_images, best == -np.inf)
    _put_last(of_texts, positive == -np.inf)
    asked = np.unique(owner)
    return Counts(of_images.above[asked], of_images.equal[asked], of_images.before[asked]), of_texts


def rank_images(scores: Array, owner: Array, ties: Ties = "pessimistic") -> Floats:
    """Rank of each text's image among all images, from 0; [texts]."""
    return count(scores, owner)[1].ranks(ties)


def rank_texts(scores: Array, owner: Array, ties: Ties = "pessimistic") -> Floats:
    """Rank of each image's best text among itself and all wrong texts, from 0; [images with a text]."""
    return count(scores, owner)[0].ranks(ties)


def order_candidates(scores: Array, right: NDArray[np.bool_], ties: Ties = "pessimistic") -> Ints:
    """The candidates of each query (last axis), best first, in the order by which its rank is counted.

    right: which candidates are right answers, of the shape of `scores`. Within a tie they stand last, first
    ("optimistic") or, with "index", where they are listed; without a score (-inf) last of all.
    """
    late = {"optimistic": ~right, "index": np.zeros_like(right)}.get(ties, right)
    late = np.where(scores == -np.inf, right, late)
    return np.lexsort((late, -scores.astype(np.float64)))


def recalls(scores: Array, owner: Array, ties: Ties = "pessimistic", ir_count: IrCount = "correct",
            folds: int = 1, median_rank: MedianRank = "exact") -> dict[str, float]:
    """The mean over folds of what `fold_recalls` finds in each; with one fold, what it finds among all images."""
    return mean(fold_recalls(scores, owner, ties, ir_count, folds, median_rank))


def fold_recalls(scores: Array, owner: Array, ties: Ties = "pessimistic", ir_count: IrCount = "correct",
                 folds: int = 1, median_rank: MedianRank = "exact") -> list[dict[str, float]]:
    """Recalls of both directions, their means, median and mean ranks, and how many queries have a tie in the top 10.

    Keys: txt_r1/5/10 and txt_r_mean (image query, text answers), img_* (text query, image answers), r_mean
    of all six, ties_in_top10 (share of all queries): fractions; rsum: the six in percent, added up; r1r5: the
    four of R@1 and R@5, likewise; *_medr and *_meanr: median and mean ranks from 1. A median between two ranks is
    their middle, or with median_rank "floor", and where ties is "index", that rounded down, as published programs
    print it. With folds, the images are cut into that many runs in their given order, each judged among its own texts.
    ir_count "legacy" counts a query's own number as a hit where it is below k, as the published UNITER tables do; it
    is for comparison with them only.
    Raises ConfigError for an unknown option, DataError as `count` does or if folds do not divide the
    images.
    """
    if ir_count not in get_args(IrCount):
        raise ConfigError(f"ir_count: {ir_count!r} is not known; give one of {', '.join(get_args(IrCount))}")
    if median_rank not in get_args(MedianRank):
        raise ConfigError(f"median_rank: {median_rank!r} is not known; give one of {', '.join(get_args(MedianRank))}")
    floor = median_rank == "floor" or ties == "index"
    owner = _checked(scores, owner)
    if folds == 1:
        return [_one_fold(scores, owner, ties, ir_count, floor)]  # without a copy of what may be a large matrix
    return [_one_fold(scores[rows][:, texts], owner[texts] - rows.start, ties, ir_count, floor)
            for rows, texts in _folds(owner, len(scores), folds)]


def chance(owner: Array, images: int, folds: int = 1) -> dict[str, float]:
    """The recalls (fractions, txt_r1 ... img_r10) that random scores would have on average."""
    if folds > 1:
        return mean(
            [chance(owner[texts] - rows.start, rows.stop - rows.start) for rows, texts in _folds(owner, images, folds)]
        )
    texts = len(owner)
    right = np.bincount(owner, minlength=images)
    right = right[right > 0]
    found = {}
    for top in TOP:
        place = np.arange(min(top, texts))  # drawn one after the other: the chance that each is wrong again
        missed = np.clip((texts - right[:, None] - place) / (texts - place), 0.0, 1.0).prod(axis=1)
        found[f"txt_r{top}"] = float(1.0 - missed.mean())
    return found | {f"img_r{top}": min(top, images) / images for top in TOP}


def mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each value over `parts`."""
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def _one_fold(scores: Array, owner: Array, ties: Ties, ir_count: IrCount, floor: bool) -> dict[str, float]:
    of_images, of_texts = count(scores, owner)
    values: dict[str, float] = {}
    for name, counts in (("txt", of_images), ("img", of_texts)):
        ranks = counts.ranks(ties)
        extra = ranks if name == "img" and ir_count == "legacy" else ranks[:0]
        for top in TOP:
            values[f"{name}_r{top}"] = (_hits(ranks, top) + _legacy_hits(extra, top)) / len(ranks)
        values[f"{name}_r_mean"] = float(np.mean([values[f"{name}_r{top}"] for top in TOP]))
        median = float(np.median(ranks))
        values[f"{name}_medr"] = (math.floor(median) if floor else median) + 1
        values[f"{name}_meanr"] = float(ranks.mean()) + 1
    values["r_mean"] = (values["txt_r_mean"] + values["img_r_mean"]) / 2
    values["rsum"] = 100 * sum(values[f"{name}_r{top}"] for name in ("txt", "img") for top in TOP)
    values["r1r5"] = 100 * sum(values[f"{name}_r{top}"] for name in ("txt", "img") for top in (1, 5))
    touched = np.concatenate([of_images.touches_top(), of_texts.touches_top()])
    values["ties_in_top10"] = float(touched.mean())
    return values


def _hits(ranks: Floats, top: int) -> int:
    """Queries answered within the first `top` places; a middle rank such as 0.5 is not yet place 1."""
    return int(np.count_nonzero(ranks <= top - 1))


def _legacy_hits(ranks: Floats, top: int) -> int:
    """What the published code counts beside the hits: numbers of top-10 queries, where below k."""
    return _hits(ranks[:top], TOP[-1])


def _folds(owner: Ints, images: int, folds: int) -> Iterator[tuple[slice, Ints]]:
    """Rows of each fold and the columns of their texts."""
    if folds < 1 or images % folds:
        raise DataError(f"folds: {images} images cannot be cut into {folds} equal folds; "
                        "choose a number that divides them")
    size = images // folds
    for start in range(0, images, size):
        texts = np.flatnonzero((owner >= start) & (owner < start + size))
        if not len(texts):
            raise DataError(f"folds: images {start} to {start + size - 1} have no text; use fewer folds")
        yield slice(start, start + size), texts


def _checked(scores: Array, owner: Array) -> Ints:
    owner = np.asarray(owner)
    if scores.ndim != 2 or owner.shape != scores.shape[1:]:
        raise DataError(f"scores: shape {scores.shape} does not fit {owner.size} texts with an owner; "
                        "give [images, texts]")
    if not len(owner):
        raise DataError("scores: not one text to judge; check the split and the length limit of the texts")
    if not np.issubdtype(owner.dtype, np.integer) or owner.min() < 0 or owner.max() >= len(scores):
        raise DataError(f"owner: entries must be whole numbers from 0 to {len(scores) - 1}, rows of the "
                        f"scores; found {owner.min()} to {owner.max()}")
    return owner.astype(np.int64)


def _refuse_nan(block: Array, start: int) -> None:
    if np.isnan(block.min()):  # one fast reduction; the place is looked for only where there is one
        image, text = np.argwhere(np.isnan(block))[0]
        raise DataError(f"scores: NaN at image {start + image}, text {text}, which has no rank; score "
                        "again in fp32, or use an earlier checkpoint if the weights hold NaN")


def _blocks(images: int, texts: int) -> Iterator[slice]:
    rows = max(1, min(_BLOCK_ROWS, _BLOCK_VALUES // texts))
    for start in range(0, images, rows):
        yield slice(start, min(start + rows, images))


def _single(values: Array) -> Array:
    """Half floats widened, exactly, because numpy compares them slowly."""
    return values.astype(np.float32) if values.dtype == np.float16 else np.asarray(values)


def _put_last(counts: Counts, unscored: Array) -> None:
    """Count what equals the positives of the queries `unscored [queries]` (bool) as above them."""
    counts.above[unscored] += counts.equal[unscored]
    counts.equal[unscored] = counts.before[unscored] = 0


def _before_in_rows(block: Array, best: Array, first: Ints, equal: Ints) -> Ints:
    """For each row the columns before `first` that equal its best; only rows that tie are looked at again."""
    found = np.zeros_like(equal)
    tied = np.flatnonzero(equal)
    earlier = np.arange(block.shape[1]) < first[tied, None]
    found[tied] = np.count_nonzero(earlier & (block[tied] == best[tied, None]), axis=1)
    return found


def _before_in_columns(block: Array, positive: Array, place: Ints, equal: NDArray[np.uint8]) -> Ints:
    """For each column the rows before its own one that equal it; `place [columns]` is the own row, counted in rows
    of this block and maybe outside it, `equal [columns]` how many rows of the block equal it."""
    found = np.where(place >= len(block), equal, 0).astype(np.int64)
    within = np.flatnonzero((place >= 0) & (place < len(block)) & (equal > 1))
    earlier = np.arange(len(block))[:, None] < place[within]
    found[within] = np.count_nonzero(earlier & (block[:, within] == positive[within]), axis=0)
    return found


def _count_down(claims: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return claims.view(np.uint8).sum(axis=0, dtype=np.uint8)
