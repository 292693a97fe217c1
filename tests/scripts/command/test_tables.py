"""scripts/command/tables.py: settings as rows, and tables as text or Markdown."""

from __future__ import annotations

from scripts.command.tables import flattened, written


def test_settings_are_flattened_to_dotted_keys() -> None:
    assert flattened({"optim": {"betas": [0.9, 0.98]}, "seed": 1}) == [("optim.betas", [0.9, 0.98]), ("seed", 1)]


def test_a_table_is_aligned_text_or_markdown() -> None:
    table = [["run", "rsum"], ["a", "312.0"], ["longer", "9.5"]]
    assert written(table, markdown=False).splitlines() == ["run      rsum", "a       312.0", "longer    9.5"]
    lines = written(table, markdown=True).splitlines()
    assert lines == ["| run | rsum |", "| --- | --: |", "| a | 312.0 |", "| longer | 9.5 |"]
