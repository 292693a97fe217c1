"""Objectives: pure functions of what a matcher gives out, found by the name of their file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from config.schema import Named
from data.batch import Batch
from model.finding import find_class
from model.matcher import MatchOut


class Objective(ABC):
    """What a run minimises, with its own config section (`settings`)."""

    settings: ClassVar[type[Named]]

    @abstractmethod
    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Named scalars whose sum is the loss; `progress` in 0..1 carries every warm-up and annealing."""


def find_objective(name: str) -> type[Objective]:
    """The objective class of `model/objective/<name>.py`; raises ConfigError where there is none."""
    return find_class("model.objective", name, Objective)  # type: ignore[type-abstract]


def build_objective(config: Named) -> Objective:
    """An objective from its own config section (which carries its `name`)."""
    return find_objective(config.name)(config)  # type: ignore[call-arg]
