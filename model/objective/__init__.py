"""Objectives: pure functions of what a matcher gives out, found by the name of their file."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from config.errors import ConfigError
from config.schema import Named
from data.batch import Batch
from model.matcher import MatchOut


class Objective(ABC):
    """What a run minimises, with its own config section (`settings`)."""

    settings: ClassVar[type[Named]]

    @abstractmethod
    def __call__(self, out: MatchOut, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Named scalars whose sum is the loss; `progress` in 0..1 carries every warm-up and annealing."""


def find_objective(name: str) -> type[Objective]:
    """The objective class of `model/objective/<name>.py`, found by name; there is no list to edit.

    Raises:
        ConfigError: no such module, or it holds no objective.
    """
    path = f"model.objective.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not path.startswith(error.name or path):
            raise  # the file is there; what it imports is not
        raise ConfigError(f"there is no objective {name!r}; model/objective/{name}.py does not exist") from error
    for item in vars(module).values():
        if isinstance(item, type) and issubclass(item, Objective) and item.__module__ == module.__name__:
            return item
    raise ConfigError(f"model/objective/{name}.py holds no Objective")


def build_objective(config: Named) -> Objective:
    """An objective from its own config section (which carries its `name`)."""
    return find_objective(config.name)(config)  # type: ignore[call-arg]
