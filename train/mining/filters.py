"""Pairs that are no candidates: positives, captions of equal words, and scores too close to a positive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.errors import DataError
from data.batches.pairs import Array, PairIndex
from train.mining.exact import score_in_order

READ_AT_ONCE = 4096
NO_CEILING = 1e30
"""Of an image without a caption, which has no positive."""
WORDS_REMEDY = "write an image id and a caption id on each line, with a tab between"


@dataclass(frozen=True)
class Excluded:
    """Pairs (`image`, `text`), each once, that are no candidates in either direction."""

    image: Array
    text: Array

    @classmethod
    def of(cls, *pairs: tuple[Array, Array]) -> Excluded:
        """All of these pairs."""
        image, text = (np.concatenate([np.asarray(pair[side], np.int64) for pair in pairs]) for side in (0, 1))
        width = int(text.max(initial=0)) + 1
        flat = np.unique(image * width + text)
        return cls(flat // width, flat % width)

    def within(self, rows: range) -> Excluded:
        """The pairs of these images."""
        inside = (self.image >= rows.start) & (self.image < rows.stop)
        return Excluded(self.image[inside], self.text[inside])

    def per_image(self, images: int) -> Array:
        """How many texts each image excludes."""
        return np.bincount(self.image, minlength=images)

    def per_text(self, texts: int) -> Array:
        """How many images each text excludes."""
        return np.bincount(self.text, minlength=texts)


def positive_pairs(owner: Array) -> tuple[Array, Array]:
    """Each text with its own image."""
    return np.asarray(owner), np.arange(len(owner))


def same_word_pairs(index: PairIndex) -> tuple[Array, Array]:
    """(image, text) of captions whose ids equal those of one of the image's own captions."""
    label = label_captions(index)
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    shared = sizes > 1
    size = sizes[shared]
    # Every caption of a group of s equal ones, beside the owner of every one of them.
    first = np.repeat(starts[shared], size * size)
    within = np.arange(len(first)) - np.repeat(np.cumsum(size * size) - size * size, size * size)
    width = np.repeat(size, size * size)
    image, text = order[first + within // width], order[first + within % width]
    return index.owner[image], text


def label_captions(index: PairIndex) -> Array:
    """`[texts]`, equal for captions of equal ids."""
    known: dict[bytes, int] = {}
    return np.fromiter((known.setdefault(ids, len(known)) for ids in _ids(index)), np.int64, len(index.texts))


def _ids(index: PairIndex) -> Iterator[bytes]:
    for start in range(0, len(index.texts), READ_AT_ONCE):
        chosen = np.arange(start, min(start + READ_AT_ONCE, len(index.texts)))
        ids = np.empty(index.words[chosen].sum(), np.int64)
        index.read_texts(chosen, ids)
        yield from (part.tobytes() for part in np.split(ids, np.cumsum(index.words[chosen])[:-1]))


def extra_pairs(path: Path, index: PairIndex) -> tuple[Array, Array]:
    """More true pairs, from a file of image and caption ids.

    Raises:
        DataError: the file cannot be read, or a line of it names nothing of these stores.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {WORDS_REMEDY}") from error
    images, texts = ({name: place for place, name in enumerate(names)} for names in (index.images, index.texts))
    image: list[int] = []
    text: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        names = line.split("\t")
        if len(names) != 2:
            raise DataError(f"{path}, line {number}: holds {len(names)} ids instead of two; {WORDS_REMEDY}")
        for name, known, found, what in zip(names, (images, texts), (image, text), ("image", "caption"), strict=True):
            if name not in known:
                raise DataError(f"{path}, line {number}: the stores hold no {what} {name!r}; {WORDS_REMEDY}")
            found.append(known[name])
    return np.asarray(image, np.int64), np.asarray(text, np.int64)


@dataclass(frozen=True)
class Ceilings:
    """The highest exact score that still counts, of each image `[n]` and each text `[m]`, float64."""

    images: Tensor
    texts: Tensor

    @classmethod
    def below(cls, images: Tensor, texts: Tensor, owner: Array, margin: float) -> Ceilings:
        """`margin` below the positive's score; the positive of an image is its best own caption."""
        whose = torch.from_numpy(np.asarray(owner))
        score = score_in_order(texts, images, torch.arange(len(whose)), whose)
        best = torch.full((len(images),), -torch.inf, dtype=torch.float64).scatter_reduce(0, whose, score, "amax")
        return cls(best.masked_fill(best == -torch.inf, NO_CEILING) - margin, score - margin)


def check_enough(allowed: Array, wanted: int, what: str, of: str, flag: str) -> None:
    """Raise DataError where one of the queries has fewer candidates than are wanted."""
    if len(allowed) and allowed.min() < wanted:
        at, least = int(allowed.argmin()), int(allowed.min())
        raise DataError(
            f"{what} {at} (counted from 0) has only {least} {of} left as candidates, {wanted} are wanted; "
            f"{f'lower {flag} to {least} or ' if least else ''}exclude fewer"
        )
