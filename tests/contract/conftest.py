"""Every system and every objective, found by listing their folders."""

from __future__ import annotations

import ast

from model.objective import build_objective, find_objective
from tests.support import ROOT


def with_a_subclass_of(base: str, folder: str) -> list[str]:
    """Names of the files in a folder that define a class on `base`."""
    found = []
    for path in sorted((ROOT / folder).glob("*.py")):
        classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
        if any(ast.unparse(parent) == base for node in classes for parent in node.bases):
            found.append(path.stem)
    return found


def objectives_that_need(what: str) -> list[str]:
    """Names of the objectives that look at pools, or at items."""
    names = with_a_subclass_of("Objective", "model/objective")
    needs = {name: build_objective(find_objective(name).settings()).needs for name in names}  # type: ignore[call-arg]
    assert all(len(found & {"pools", "items"}) == 1 for found in needs.values())
    return [name for name, found in needs.items() if what in found]
