"""config/wording.py: one of a thing is told in the singular."""

from __future__ import annotations

from config.wording import pluralise


def test_one_is_singular() -> None:
    assert [pluralise(number, "rank") for number in (0, 1, 2)] == ["0 ranks", "1 rank", "2 ranks"]
