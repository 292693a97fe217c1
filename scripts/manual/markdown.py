"""Small pieces of Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown, on one line each."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def code(text: object) -> str:
    """Return text in the type of code; nothing for nothing."""
    words = str(text)
    return f"`{words}`" if words else ""


def plain(text: str) -> str:
    """Return text that Markdown leaves as it is: its signs escaped."""
    for sign in ("\\", "*", "_", "[", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;")


def prose(text: str) -> str:
    """Return text of a docstring: what is between backticks as code, the rest as it is."""
    parts = text.split("`")
    return "".join(code(part) if number % 2 else plain(part) for number, part in enumerate(parts))


def docstring(text: str) -> str:
    """Return a docstring as paragraphs; indented ones, which are commands or listings, as code."""
    parts = [part.strip("\n") for part in textwrap.dedent(text).split("\n\n") if part.strip()]
    return "\n\n".join(_paragraph(part) for part in parts) + "\n"


def _paragraph(part: str) -> str:
    lines = part.splitlines()
    if lines[0].startswith("  "):
        return "```text\n" + textwrap.dedent(part) + "\n```"
    if lines[0].startswith("- "):
        return part
    return prose(" ".join(line.strip() for line in lines))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
