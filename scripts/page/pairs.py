"""A pair that a page shows: its picture, its words, what is said of it, and how a kind of page draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.batches.pairs import PairIndex
from scripts.page.outcome import counting, open_outcome
from train.assembly.recipe import Parts
from train.scoring.recall import Counts, Ties
from train.scoring.scorer import Scorer, fingerprint
from train.scoring.scores import Scores, read_origin

WIDTH = 400
"""Width of every drawn picture, in its own units; shown smaller or larger."""

_CONTINUES = "@@"  # the mark of a piece that goes on with a word


@dataclass(frozen=True)
class Picture:
    """A picture as a data address, with the name under which the page embeds it once."""

    name: str
    source: str
    height: float
    width: int = WIDTH


class Words(NamedTuple):
    """The whitespace words of a caption, as they are shown, and the word `owner [pieces]` of each of its pieces."""

    labels: list[str]
    owner: NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """An image and a text, and what is said of the two whatever is drawn; `notes` follow their score."""

    image: int
    text: int
    label: str
    caption: str
    words: Words
    picture: Picture
    names: list[str]
    notes: list[str]

    def facts(self, score: float) -> list[str]:
        """All that is said of them, the score among it."""
        return [*self.names, f"score {score:.3g}", *self.notes]


class Drawing(NamedTuple):
    """A kind of page: its template, and what makes the views of subjects that the template shows.

    A view has `subject` and `facts`; what else is between the two.
    """

    template: str
    views: Callable[[Scorer, PairIndex, Sequence[Subject]], Sequence[Any]]


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
        if not (read_origin(place) or "").startswith(fingerprint(parts.matcher, index)):
            return cls(None, "pessimistic", f"{place} was made with other weights or stores")
        outcome = open_outcome(folder)
        return cls(outcome.scores(split), counting(outcome.results.get(split, {})).ties, "")

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
