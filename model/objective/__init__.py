"""Objectives: pure functions of what a matcher gives out, found by the name of their file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from config.errors import ConfigError
from config.schema import Named
from data.batch import Batch
from model.matcher import MatchOut

Objective = Callable[[MatchOut, Batch, float], dict[str, Tensor]]
"""`(out, batch, progress) -> {name: scalar}`; `progress` in 0..1 carries every warm-up and annealing."""


def find_objective(name: str) -> Any:
    """The objective class of `model/objective/<name>.py`.

    Raises:
        ConfigError: there is none.
    """
    try:
        module = importlib.import_module(f"model.objective.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no objective {name!r}; model/objective/{name}.py does not exist") from error
    return module.OBJECTIVE


def build_objective(config: Named) -> Objective:
    """An objective from its own config section (which carries its `name`)."""
    return find_objective(config.name)(config)
