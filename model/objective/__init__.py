"""Objectives: pure functions of what a matcher gives out, found by the name of their file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from config.sections import Named
from data.batches.batch import Batch
from model.matcher import MatchOut
from model.registry import find_class


@dataclass(frozen=True)
class Term:
    """A part of the loss: its mean over anchors (a scalar), and what it weighs; without a weight it is as it is.

    An update averages over its anchors; a term that is `summed` is not divided by their number. One that is not
    `counted` is only written to the log.
    """

    value: Tensor
    weight: float | None = None
    summed: bool = False
    counted: bool = True

    def share(self, anchors: int, of: float) -> Tensor:
        """What it adds to the loss of an update, being the mean over `anchors` of its `of` anchors."""
        weight = 1.0 if self.weight is None else self.weight
        return self.value * (weight * (anchors if self.summed else anchors / of))


class Objective(ABC):
    """What a run minimises, with its own config section (`settings`)."""

    settings: ClassVar[type[Named]]

    @property
    def needs(self) -> frozenset[str]:
        """What it looks at besides scores; a matcher hands it over only to those who ask (see `Matcher.offers`)."""
        return frozenset()

    def plateaus(self, progress: float) -> dict[str, float]:  # noqa: ARG002
        """What each of its terms costs an anchor while all scores are alike, where a loss can come to rest.

        {} where there is no such rest, or at a `progress` at which it cannot be told.
        """
        return {}

    @abstractmethod
    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Term]:
        """Named parts of the loss; `progress` in 0..1 carries every warm-up and annealing."""


def pool_scores(out: MatchOut, batch: Batch) -> Tensor:
    """Scores `[anchors, candidates]` of the pools; raises ValueError for a batch that has none."""
    if batch.pool is None:
        raise ValueError("this objective compares the candidates of pools; the batch has none")
    return out.scores["match"]


def find_objective(name: str) -> type[Objective]:
    """The objective class of `model/objective/<name>.py`; raises ConfigError where there is none."""
    return find_class("model.objective", name, Objective)  # type: ignore[type-abstract]


def build_objective(config: Named) -> Objective:
    """An objective from its own config section (which carries its `name`)."""
    return find_objective(config.name)(config)  # type: ignore[call-arg]
