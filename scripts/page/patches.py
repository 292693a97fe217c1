"""LAPS as a page shows it: the patches that a caption keeps, and those that each of its words is matched with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.batches.pairs import PairIndex
from model.laps import Laps
from model.parts.slimming import Tile, match_both_ways
from scripts.page.pairs import Drawing, Subject
from train.scoring.scorer import Scorer

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FIRST, LAST = "[CLS]", "[SEP]"  # the marks around a caption, which are words to the model
_SHARES = 4  # even shares of the patches shown that make the full colour, at least


@dataclass(frozen=True)
class Slimmed:
    """What LAPS makes of one pair: s patches, k aggregated ones, h rows that meet w words.

    Attributes:
        kept: `[s]`.
        significance: `[s]`, by which they are kept.
        aggregated: `[k, s]` weights of patches in the aggregated ones.
        fused: `[s]` weights of patches in the fused one; None where nothing is dropped.
        cosines: `[h, w]`: of [CLS] if `has_whole`, the aggregated ones, the fused one, or a row of zeros.
        has_whole: whether the first row stands for the whole picture.
        of_words, of_rows: the two parts of the score; None for the second where rows look for no words.
        bends: whether negative cosines are flattened in it.
        learned: whether a network has a say in what is kept.
    """

    kept: Mask
    significance: Array
    aggregated: Array
    fused: Array | None
    cosines: Array
    has_whole: bool
    of_words: float
    of_rows: float | None
    bends: bool
    learned: bool

    @classmethod
    def of(cls, tile: Tile) -> Slimmed:
        """From a tile of one image and one text."""
        cosines, rule, pictures = tile.cosines, tile.rule, tile.shapes.pictures
        score = tile.similarities(cosines).item()
        of_words = match_both_ways(cosines, tile.there, bend=rule.bend, both_ways=False).item()
        weights, count = host(tile.weights[0, 0]), pictures.logits.shape[1]
        return cls(
            kept=tile.kept[0, 0].cpu().numpy(),
            significance=host(tile.shapes.scores(tile.captions.queries)[0, 0]),
            aggregated=weights[:count],
            fused=weights[count] if len(weights) > count else None,
            cosines=host(cosines[0, 0]),
            has_whole=pictures.whole is not None,
            of_words=of_words,
            of_rows=score - of_words if rule.both_ways else None,
            bends=rule.bend,
            learned=pictures.bias is not None,
        )

    @property
    def score(self) -> float:
        """The sum of its parts."""
        return self.of_words + (self.of_rows or 0)

    @property
    def grid(self) -> int:
        """Patches in a row of the picture, and in a column."""
        return math.isqrt(len(self.kept))


class Cell(NamedTuple):
    """A patch, its weight, and how strongly that is shown, up to 1; places count from 0."""

    column: int
    row: int
    weight: float
    strength: float


class Run(NamedTuple):
    """Patches side by side."""

    column: int
    row: int
    length: int


@dataclass(frozen=True)
class Row:
    """One of those that meet the words: the whole picture, some of its patches mixed, or zeros."""

    kind: Literal["whole", "aggregated", "fused", "zeros"]
    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Match:
    """A word, the row whose cosine with it is highest, and how many rows have it for their best word.

    `drawn` is the best of those rows that are made of patches, and so can be drawn.
    """

    word: str
    row: Row
    cosine: float
    drawn: Row
    drawn_cosine: float
    finders: int


@dataclass(frozen=True)
class View:
    """Everything that the page shows of one pair; `unread` are the words that come too late to be compared."""

    subject: Subject
    slimmed: Slimmed
    matches: list[Match]
    unread: list[str]

    @property
    def facts(self) -> list[str]:
        """What is said of the pair."""
        return self.subject.facts(self.slimmed.score)

    @cached_property
    def kept(self) -> list[Run]:
        """Where patches are kept."""
        return list(runs(self.slimmed.kept))

    @cached_property
    def dropped(self) -> list[Run]:
        """Where patches are dropped."""
        return list(runs(~self.slimmed.kept))

    @property
    def judged(self) -> list[Cell]:
        """All patches by what they matter."""
        return cells(self.slimmed.significance, np.ones_like(self.slimmed.kept))

    @property
    def mixed(self) -> list[Cell]:
        """The kept patches by their weight in all aggregated ones together."""
        return cells(self.slimmed.aggregated.mean(0), self.slimmed.kept)

    @property
    def fused(self) -> list[Cell]:
        """The dropped patches by their weight in the fused one."""
        return [] if self.slimmed.fused is None else cells(self.slimmed.fused, ~self.slimmed.kept)


def views(scorer: Scorer, index: PairIndex, subjects: Sequence[Subject]) -> list[View]:
    """Pairs scored and looked into, for a LAPS that slims."""
    return [view_of(subject, slimmed(scorer, index, subject)) for subject in subjects]


@torch.inference_mode()
def slimmed(scorer: Scorer, index: PairIndex, subject: Subject) -> Slimmed:
    """What the model makes of a pair, as an evaluation has it."""
    matcher = scorer.matcher.eval()
    assert isinstance(matcher, Laps)
    with scorer.autocast():
        images = scorer.encode_images(index, np.array([subject.image]))
        texts = scorer.encode_texts(index, np.array([subject.text]))
        return Slimmed.of(matcher.look(images, texts))


def view_of(subject: Subject, found: Slimmed) -> View:
    """A pair as the page shows it; pieces of a word are merged to the mean of their cosines."""
    words = subject.words
    count = found.cosines.shape[1]
    labels = [FIRST, *words.labels, LAST]
    owner = np.concatenate([[0], words.owner + 1, [len(labels) - 1]])[:count]
    read = int(owner.max()) + 1
    belongs = (np.arange(read)[:, None] == owner).astype(np.float64)
    cosines = (belongs / belongs.sum(1, keepdims=True)) @ found.cosines.T
    finders = np.bincount(owner[found.cosines.argmax(1)], minlength=read).tolist()
    rows = rows_of(found)
    mixed = np.array([bool(row.cells) for row in rows])
    best, drawn = cosines.argmax(1).tolist(), np.where(mixed, cosines, -np.inf).argmax(1).tolist()
    told = zip(labels, best, drawn, cosines.tolist(), finders, strict=False)
    matches = [Match(word, rows[one], values[one], rows[other], values[other], count)
               for word, one, other, values, count in told]
    # The marks are put last: they belong to the caption, but say nothing of their own.
    marks = [match for at, match in enumerate(matches) if at in (0, len(labels) - 1)]
    return View(subject, found, [*matches[1 : len(labels) - 1], *marks], labels[read:])


def rows_of(found: Slimmed) -> list[Row]:
    """The rows that meet the words, in order."""
    rows = [Row("whole", "whole picture", [])] if found.has_whole else []
    rows += [Row("aggregated", f"aggregated patch {number}", cells(weights, found.kept))
             for number, weights in enumerate(found.aggregated, 1)]
    if found.fused is not None:
        rows += [Row("fused", "fused patch", cells(found.fused, ~found.kept))]
    rows += [Row("zeros", "row of zeros", [])] * (len(found.cosines) - len(rows))
    return rows


def cells(weights: Array, shown: Mask) -> list[Cell]:
    """The patches `shown [s]` of a square grid by their `weights [s]`.

    Full strength is the largest weight, or a few even shares where none is as large: what is spread evenly is pale.
    """
    places = np.flatnonzero(shown)
    row, column = np.divmod(places, math.isqrt(len(shown)))
    chosen = weights[places]
    strengths = chosen / max(chosen.max(initial=0), _SHARES / max(_SHARES, len(places)))
    found = (part.tolist() for part in (column, row, chosen, strengths))
    return [Cell(*cell) for cell in zip(*found, strict=True)]


def runs(shown: Mask) -> Iterator[Run]:
    """The patches `shown [s]` of a square grid, row by row, neighbours together."""
    grid = math.isqrt(len(shown))
    for row, flags in enumerate(shown.reshape(grid, grid).tolist()):
        column = 0
        for flag, group in groupby(flags):
            length = len(list(group))
            if flag:
                yield Run(column, row, length)
            column += length


def host(values: Tensor) -> Array:
    """Numbers on the host, in float64."""
    return values.detach().double().cpu().numpy()


PATCHES = Drawing("patches.html.j2", views)
