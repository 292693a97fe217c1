"""A pair's attention as a page shows it: pieces merged to words, weights as shades, boxes over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.batches.pairs import PairIndex
from scripts.page.pairs import WIDTH, Drawing, Subject
from train.scoring.scorer import Scorer, read_images

Weights = NDArray[np.float64]

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
class View:
    """Everything that the page shows of one pair.

    `own` and `other` are shaded by the largest weight of the whole block, `out` and `back` by that of each who looks.
    `boxes` are in the order in which they are drawn, the largest first, so that none hides another from the pointer.
    """

    subject: Subject
    score: float
    boxes: list[Box]
    own: list[Look]
    out: list[Look]
    back: list[Look]
    other: list[Look]

    @property
    def facts(self) -> list[str]:
        """What is said of the pair."""
        return self.subject.facts(self.score)

    @property
    def numbers(self) -> list[str]:
        """The regions as they are called."""
        return [look.label for look in self.other]

    @property
    def in_order(self) -> list[Box]:
        """The boxes by their numbers."""
        return sorted(self.boxes, key=lambda box: box.number)


def views(scorer: Scorer, index: PairIndex, subjects: Sequence[Subject]) -> list[View]:
    """Pairs scored and watched, for a matcher that offers attention."""
    images, texts = (np.array(side) for side in zip(*((one.image, one.text) for one in subjects), strict=True))
    scores, attention = scorer.score_with_attention(index, images, texts)
    blocks = attention.blocks()
    own, out, back, other = (block.cpu().double().numpy() for block in (blocks.own, blocks.out, blocks.back,
                                                                        blocks.other))
    counts = zip(subjects, blocks.rows.tolist(), blocks.columns.tolist(), scores.float().tolist(), strict=True)
    return [view_of(subject, score, Blocks(own[at, :n, :n], out[at, :n, :k], back[at, :k, :n], other[at, :k, :k]),
                    read_images(index, [subject.image]).boxes.numpy()[:, :4])
            for at, (subject, n, k, score) in enumerate(counts)]


def view_of(subject: Subject, score: float, blocks: Blocks, boxes: NDArray[np.float32]) -> View:
    """A pair as the page shows it, from its attention piece by piece and the boxes `[k, 4]` it was given."""
    words, numbers = subject.words.labels, [str(number) for number in range(1, len(boxes) + 1)]
    merged = blocks.merged(subject.words.owner)
    return View(subject, score, drawn(boxes, subject.picture.height),
                looks(words, merged.own, each=False), looks(words, merged.out, each=True),
                looks(numbers, merged.back, each=True), looks(numbers, merged.other, each=False))


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


ATTENTION = Drawing("attention.html.j2", views)
