"""The page of the code: every room with what it is for, and the first line of every module in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from scripts.manual.markdown import code, docstring, prose, table
from scripts.manual.programs import ROOT

FLOORS = ("config", "data", "model", "train", "scripts")
INTRODUCTION = """# Where things are

Each folder of code is a room. Its `__init__.py` says what the room is for and what may not be in it; this page is made
of these words and of the first line of every module.

Imports go one way: `scripts` → `train` → `model` → `data` → `config`, and one way between the rooms of a floor.
`tests/test_floors.py` has their order and holds it. Tests lie in the same rooms below `tests/`.
"""


def rooms_page() -> str:
    """Return the page."""
    return INTRODUCTION + "".join(_room(room) for floor in FLOORS for room in _rooms(ROOT / floor))


def _rooms(floor: Path) -> Iterator[Path]:
    """Yield the folders of a floor that are packages, the floor itself first."""
    yield from (path.parent for path in sorted(floor.rglob("__init__.py"), key=lambda path: path.parent.parts))


def _room(room: Path) -> str:
    name = str(room.relative_to(ROOT))
    modules = [path for path in sorted(room.glob("*.py")) if path.stem != "__init__"]
    rows = [(code(path.name), prose(_first_line(path))) for path in modules]
    level = "##" if "/" not in name else "###"
    return (
        f"\n{level} {name}\n\n{docstring(_docstring(room / '__init__.py'))}\n{table(('module', 'what it holds'), rows)}"
    )


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def _first_line(path: Path) -> str:
    return _docstring(path).partition("\n\n")[0].replace("\n", " ")
