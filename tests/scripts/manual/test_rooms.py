"""scripts/manual/rooms.py: every module of every room has its line."""

from __future__ import annotations

import re

from scripts.manual.rooms import FLOORS, rooms_page
from tests.support import ROOT
from tests.test_floors import FLOORS as ALL_FLOORS


def test_every_module_has_a_line_that_tells_something() -> None:
    page = rooms_page()
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*.py"):
            if path.stem != "__init__":
                assert re.search(rf"^\| `{path.name}` \| \w.* \|$", page, re.M), path


def test_every_room_says_what_it_is_for() -> None:
    parts = re.split(r"^#{2,3} ", rooms_page(), flags=re.M)[1:]
    assert {re.split(r"[/\n]", part)[0] for part in parts} == set(FLOORS) == set(ALL_FLOORS)
    assert all(re.match(r"\w.*\.$", part.split("\n\n")[1]) for part in parts)
