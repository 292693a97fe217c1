"""A pair's attention as a page shows it: pieces merged to words, weights as shades, boxes over the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.pairs import PairIndex
from scripts.page.outcome import counting, open_outcome
from train.recall import Counts, Ties
from train.recipe import Parts
from train.scorer import fingerprint
from train.scores import Scores, kept_origin

Weights = NDArray[np.float64]

WIDTH = 400
"""Width of every drawn picture, in its own units; shown smaller or larger."""

_CONTINUES = "@@"  # the mark of a piece that goes on with a word
_NUMBER = 22  # height of a region's number, in the units of the drawing
_NAMED = 3  # how many of those seen are named to who cannot see the shades


@dataclass(frozen=True)
class Blocks:
    """The four blocks of one pair, rows look, columns are seen; rows sum to 1.

    `own [n, n]` word to word, `out [n, k]` word to region, `back [k, n]` region to word, `other [k, k]` region to
    region.
    """

    own: Weights
    out: Weights
    back: Weights
    other: Weights

    def merged(self, owner: NDArray[np.int64]) -> Blocks:
        """Pieces as words, `owner [n]` being each piece's word: the mean over those that look, the sum over those seen.

        Rows still sum to 1.
        """
        belongs = (np.arange(owner.max() + 1)[:, None] == owner).astype(np.float64)
        mean = belongs / belongs.sum(1, keepdims=True)
        return Blocks(mean @ self.own @ belongs.T, mean @ self.out, self.back @ belongs.T, self.other)


class Shade(NamedTuple):
    """A weight, and its share of the largest one that it is shown with."""

    weight: float
    strength: float


@dataclass(frozen=True)
class Look:
    """One word or region that looks, and how much it looks at each of the seen."""

    label: str
    shades: list[Shade]

    @property
    def strongest(self) -> int:
        """The number (from 0) of the one it looks at most; the first of equal ones."""
        return self.ordered[0]

    @property
    def named(self) -> list[int]:
        """The numbers of the few that it looks at most."""
        return self.ordered[:_NAMED]

    @property
    def ordered(self) -> list[int]:
        """All numbers, the most looked at first."""
        return np.argsort([-shade.weight for shade in self.shades], kind="stable").tolist()


@dataclass(frozen=True)
class Box:
    """A region on the picture, in units of the drawing; `number` from 1, written at (`left`, `base`)."""

    number: int
    x: float
    y: float
    width: float
    height: float
    left: float
    base: float


@dataclass(frozen=True)
class Picture:
    """A picture as a data address, with the name under which the page embeds it once."""

    name: str
    source: str
    height: float


@dataclass(frozen=True)
class View:
    """Everything that the page shows of one pair.

    `own` and `other` are shaded by the largest weight of the whole block, `out` and `back` by that of each who looks.
    `boxes` are in the order in which they are drawn, the largest first, so that none hides another from the pointer.
    """

    caption: str
    facts: list[str]
    label: str
    picture: Picture
    boxes: list[Box]
    words: list[str]
    own: list[Look]
    out: list[Look]
    back: list[Look]
    other: list[Look]

    @property
    def numbers(self) -> list[str]:
        """The regions as they are called."""
        return [look.label for look in self.other]

    @property
    def in_order(self) -> list[Box]:
        """The boxes by their numbers."""
        return sorted(self.boxes, key=lambda box: box.number)


class Words(NamedTuple):
    """The whitespace words of a caption, as they are shown, and the word `owner [pieces]` of each of its pieces."""

    labels: list[str]
    owner: NDArray[np.int64]


def words_of(record: Mapping[str, Any], where: str) -> Words:
    """The words of a text store's record: those of `raw` where they fit, else their pieces put together.

    Raises:
        DataError: the record does not tell its pieces, or tells others than its ids; `where` names the caption.
    """
    pieces = record.get("toked_caption")
    if not isinstance(pieces, list) or len(pieces) != len(record["input_ids"]):
        raise DataError(f"{where} has no toked_caption that fits its {len(record['input_ids'])} ids; "
                        "pack the captions again with scripts/build_txtdb.py")
    begins = [at == 0 or not piece.startswith(_CONTINUES) for at, piece in enumerate(pieces)]
    owner = np.cumsum(begins) - 1
    written = str(record.get("raw", "")).split()
    if len(written) == owner[-1] + 1:
        return Words(written, owner)
    parts = [piece.removeprefix(_CONTINUES).removeprefix("##") for piece in pieces]
    joined = ["".join(part for part, word in zip(parts, owner, strict=True) if word == one)
              for one in range(owner[-1] + 1)]
    return Words(joined, owner)


@dataclass(frozen=True)
class Places:
    """Where each text's own image stands among all of the split; `why` not, where that is not known."""

    scores: Scores | None
    ties: Ties
    why: str

    @classmethod
    def find(cls, folder: Path, split: str, parts: Parts, index: PairIndex) -> Places:
        """From the run's score matrix of the split, if these weights made it from these stores."""
        place = folder / "scores" / split
        if not (place / "matrix.npy").is_file():
            return cls(None, "pessimistic", f"{place} holds no score matrix")
        if not (kept_origin(place) or "").startswith(fingerprint(parts.matcher, index)):
            return cls(None, "pessimistic", f"{place} was made with other weights or stores")
        outcome = open_outcome(folder)
        return cls(outcome.scores(split), counting(outcome.results.get(split, {}))[0], "")

    def of(self, index: PairIndex, text: int) -> str:
        """In words: the place of a text's own image."""
        if self.scores is None:
            return ""
        column = np.asarray(self.scores.matrix[:, text], np.float64)
        own = column[index.owner[text]]
        above, tied = np.count_nonzero(column > own), np.flatnonzero(column == own)
        before = np.count_nonzero(tied < index.owner[text])
        place = 1 + Counts(*np.array([[above], [len(tied) - 1], [before]])).ranks(self.ties)[0]
        return f"right picture at place {place:g} of {len(column):,}"


def looks(labels: Sequence[str], weights: Weights, each: bool) -> list[Look]:
    """The rows of `weights [rows, columns]`, shaded by the largest weight of all, or of `each` row."""
    largest = weights.max(1, keepdims=True) if each else np.full((len(weights), 1), weights.max())
    strengths = weights / np.maximum(largest, np.finfo(np.float64).tiny)
    rows = zip(labels, weights.tolist(), strengths.tolist(), strict=True)
    return [Look(label, [Shade(*pair) for pair in zip(*row, strict=True)]) for label, *row in rows]


def drawn(boxes: NDArray[Any], height: float) -> list[Box]:
    """Boxes `[k, 4]` (x1 y1 x2 y2, shares of width and height) on a drawing, the largest first.

    Each number stands in the corner of its box that fewest numbers stand near already.
    """
    corners = boxes.astype(np.float64).clip(0, 1) * (WIDTH, height, WIDTH, height)
    sizes = corners[:, 2:] - corners[:, :2]
    placed: list[tuple[float, float]] = []
    found = []
    for at in np.argsort(-sizes.prod(1), kind="stable").tolist():
        (x1, y1, x2, y2), (width, tall) = corners[at].tolist(), sizes[at].tolist()
        left, base = _free_corner(placed, (x1, y1, x2, y2), 0.6 * _NUMBER * len(str(at + 1)), height)
        placed.append((left, base))
        found.append(Box(at + 1, x1, y1, width, tall, left, base))
    return found


def _free_corner(
    placed: Sequence[tuple[float, float]], box: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float]:
    """Where (left, baseline) a number of this width fits into a corner of `box` and into the picture."""
    x1, y1, x2, y2 = box
    lefts = [float(np.clip(x, 2, WIDTH - width - 2)) for x in (x1 + 4, x2 - width - 4)]
    bases = [float(np.clip(y, _NUMBER, height - 4)) for y in (y1 + _NUMBER, y2 - 5)]
    corners = [(left, base) for base in bases for left in lefts]
    return min(corners, key=lambda one: sum(abs(one[0] - left) < 1.5 * _NUMBER and abs(one[1] - base) < _NUMBER
                                            for left, base in placed))
