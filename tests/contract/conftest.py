"""Every system and every objective, found by listing their folders."""

from __future__ import annotations

import ast

from tests.support import ROOT


def with_a_subclass_of(base: str, folder: str) -> list[str]:
    """Names of the files in a folder that define a class on `base`."""
    found = []
    for path in sorted((ROOT / folder).glob("*.py")):
        classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
        if any(ast.unparse(parent) == base for node in classes for parent in node.bases):
            found.append(path.stem)
    return found
