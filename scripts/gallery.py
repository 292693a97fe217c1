"""Examples of retrieval both ways, chosen by rule: found first, found among the first ten, and missed.

    python scripts/gallery.py OUTPUT_DIR [--split test] [--pictures PLACE] [--captions FILE] [--examples 12]

writes OUTPUT_DIR/gallery.html; report.py shows a few of the same on its page. Within each group the queries
are sorted by rank, then by the score of their best right answer, and taken at even distances: the same matrix
gives the same examples, and nobody picks the pretty ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config.errors import DataError
from scripts.command.program import Parser, naming_runs, run
from scripts.page.outcome import Outcome, counting, open_outcome
from scripts.page.render import write_page
from scripts.page.sources import Captions, Pictures, bare, files_for, text_store
from train.scoring.recall import Array, Counts, Floats, Ints, Ties, count, order_candidates
from train.scoring.scores import Scores

SHOWN = 5
GROUPS = (("Found first", 0, 1), ("Found among the first ten", 1, 10), ("Missed", 10, None))


@dataclass(frozen=True)
class Answer:
    """A candidate at its place (from 1): a picture with its id, or a text; `right` if it fits the query."""

    place: int
    score: float
    right: bool
    label: str
    picture: str | None = None


@dataclass(frozen=True)
class Example:
    """A query, its first answers, and its best right answer: one of them, or further down."""

    label: str
    answers: list[Answer]
    best: Answer
    picture: str | None = None


@dataclass(frozen=True)
class Group:
    """Queries whose best right answer stands in a range of places: how many they are, and some of them."""

    title: str
    queries: int
    share: float
    examples: list[Example]


@dataclass(frozen=True)
class Gallery:
    """Groups of text queries and of image queries; `sources` says where words and pictures come from."""

    split: str
    text_queries: list[Group]
    image_queries: list[Group]
    sources: list[str]


class Maker:
    """Makes the examples of one score matrix."""

    def __init__(self, scores: Scores, ties: Ties, captions: Captions, pictures: Pictures) -> None:
        self.scores = scores
        self.ties = ties
        self.captions = captions
        self.pictures = pictures

    def gallery(self, split: str, examples: int) -> Gallery:
        """`examples` queries of each group and direction, with words and pictures."""
        matrix, owner = self.scores.matrix, self.scores.owner
        of_images, of_texts = count(matrix, owner)
        positive = matrix[owner, np.arange(len(owner))].astype(np.float64)
        best = np.full(len(matrix), -np.inf)
        np.maximum.at(best, owner, positive)
        asked = np.unique(owner)
        texts = self._groups(np.arange(len(owner)), of_texts, positive, examples, self.text_query)
        images = self._groups(asked, of_images, best[asked], examples, self.image_query)
        return Gallery(split, texts, images, [self.captions.source, self.pictures.source])

    def text_query(self, text: int) -> Example:
        """A caption and the pictures found for it."""
        images = self.scores.images
        answers, best = self._answers(
            self.scores.matrix[:, text], self.scores.owner[text] == np.arange(len(images)),
            lambda image: (bare(images[image]), self.pictures.thumbnail(images[image])))
        return Example(self.captions[self.scores.texts[text]], answers, best)

    def image_query(self, image: int) -> Example:
        """A picture and the captions found for it."""
        answers, best = self._answers(self.scores.matrix[image], self.scores.owner == image,
                                      lambda text: (self.captions[self.scores.texts[text]], None))
        name = self.scores.images[image]
        return Example(bare(name), answers, best, self.pictures.thumbnail(name))

    def _answers(self, values: Array, right: NDArray[np.bool_],
                 look: Callable[[int], tuple[str, str | None]]) -> tuple[list[Answer], Answer]:
        order = order_candidates(values, right, self.ties)
        first_right = int(np.flatnonzero(right[order])[0])
        places = sorted({*range(min(SHOWN, len(order))), first_right})
        made = {place: Answer(place + 1, float(values[order[place]]), bool(right[order[place]]),
                              *look(int(order[place]))) for place in places}
        return [made[place] for place in places if place < SHOWN], made[first_right]

    def _groups(self, queries: Ints, counts: Counts, positive: Floats, examples: int,
                make: Callable[[int], Example]) -> list[Group]:
        groups, ranks = [], counts.ranks(self.ties)
        for title, low, high in GROUPS:
            members = np.flatnonzero((ranks >= low) & (ranks < (np.inf if high is None else high)))
            members = members[np.lexsort((-positive[members], ranks[members]))]
            made = [make(int(n)) for n in queries[members[spread(len(members), examples)]]]
            groups.append(Group(title, len(members), len(members) / len(queries), made))
        return groups


def spread(size: int, wanted: int) -> Ints:
    """At most `wanted` positions at even distances in a list of `size`: the middles of equal parts."""
    wanted = min(size, wanted)
    return ((np.arange(wanted) + 0.5) * size / max(wanted, 1)).astype(np.int64)


def make_gallery(outcome: Outcome, split: str, scores: Scores, pictures: Path | None, captions: Path | None,
                 examples: int) -> Gallery:
    """The gallery of one split; ties are broken as its recalls were counted."""
    ties = counting(outcome.results.get(split, {})).ties
    words = Captions.find(outcome, split, scores, captions)
    files = files_for(text_store(outcome, split), captions, scores.images) if pictures else {}
    return Maker(scores, ties, words, Pictures(pictures, files=files)).gallery(split, examples)


def add_source_flags(parser: argparse.ArgumentParser, examples: int) -> None:
    """The flags that report.py has in common with this program."""
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="output folder of a run")
    parser.add_argument("--pictures", type=Path, metavar="PLACE",
                        help="folder, searched with those in it, or tar of the pictures: IMAGE_ID.jpg, or as the "
                        "captions file names them")
    parser.add_argument("--captions", type=Path, metavar="FILE",
                        help="captions .jsonl or Karpathy .json; else config.json's text store is read")
    parser.add_argument("--examples", type=int, default=examples, metavar="N",
                        help="examples of each group and direction (%(default)s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Write OUTPUT_DIR/gallery.html and say where it is."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    add_source_flags(parser, examples=12)
    parser.add_argument("--split", default="test", help="the scored split (%(default)s)")
    args = parser.parse_args(naming_runs(argv))
    outcome = open_outcome(args.output_dir)
    scores = outcome.scores(args.split)
    if scores is None:
        raise DataError(f"{outcome.folder}/scores/{args.split}: no score matrix is here; evaluate this "
                        "split first, or name another with --split")
    gallery = make_gallery(outcome, args.split, scores, args.pictures, args.captions, args.examples)
    page = outcome.folder / "gallery.html"
    print(write_page(page, "gallery.html.j2", outcome=outcome, gallery=gallery))
    return 0


if __name__ == "__main__":
    run(main)
