"""The settings section of each matcher and objective, found by its name."""

from __future__ import annotations

from model.matcher import find
from model.objective import find_objective

KINDS = {"matcher": lambda name: find(name).settings, "objective": lambda name: find_objective(name).settings}
