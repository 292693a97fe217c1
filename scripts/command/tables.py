"""Tables for a terminal or a Markdown page, and settings as rows of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Table = list[list[str]]


def format_table(table: Table, markdown: bool) -> str:
    """The table as aligned text or as Markdown."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in table]
    if not markdown:
        return "\n".join(lines)
    rule = ["---", *["--:"] * (len(table[0]) - 1)]
    rows = [table[0], rule, *table[1:]]
    return "\n".join("| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = prefix + key
        pairs += flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs
