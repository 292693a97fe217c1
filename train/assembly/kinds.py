"""Which section of settings the name of a matcher or an objective stands for: the file in model/ declares it."""

from __future__ import annotations

from model.matcher import find
from model.objective import find_objective

KINDS = {"matcher": lambda name: find(name).settings, "objective": lambda name: find_objective(name).settings}
