"""scripts/command/tables.py: settings as rows, and tables as text or Markdown."""

from __future__ import annotations

from scripts.command.tables import flatten, format_table


def test_settings_are_flattened_to_dotted_keys() -> None:
    assert flatten({"optim": {"betas": [0.9, 0.98]}, "seed": 1}) == [("optim.betas", [0.9, 0.98]), ("seed", 1)]


def test_a_table_is_aligned_text_or_markdown() -> None:
    table = [["run", "rsum"], ["a", "312.0"], ["longer", "9.5"]]
    assert format_table(table, markdown=False).splitlines() == ["run      rsum", "a       312.0", "longer    9.5"]
    lines = format_table(table, markdown=True).splitlines()
    assert lines == ["| run | rsum |", "| --- | --: |", "| a | 312.0 |", "| longer | 9.5 |"]
