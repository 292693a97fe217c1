"""The fenced blocks of the documentation, and what the comment before each says of it.

`<!-- needs: WHAT -->`   its commands need hardware or data that a test has not: they are parsed and not run
`<!-- file: NAME -->`    it is the content of a file that the commands after it find
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

SHELL = ("bash", "console")
"""Languages of commands; in a console block the commands follow a `$ `, everything else is their output."""
FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*([\w+-]*)")
COMMENT = re.compile(r"^\s*<!--\s*(needs|file):\s*(.+?)\s*-->\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first line within the page."""

    page: str
    line: int
    language: str
    text: str
    needs: str = ""
    file: str = ""


@dataclass(frozen=True)
class Line:
    """One command line, its continuations joined, and where it begins."""

    where: str
    text: str


def pages() -> list[Path]:
    """README, CONTRIBUTING and everything in docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(text: str, page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    said: dict[str, str] = {}
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        comment, fence = COMMENT.match(line), FENCE.match(line)
        if comment:
            said[comment[1]] = comment[2]
        elif fence:
            inside: list[str] = []
            for _, body in lines:
                if body.strip() == fence[1]:
                    break
                inside.append(body)
            yield Block(page, number + 1, fence[2], textwrap.dedent("\n".join(inside)), **said)
            said = {}
        elif line.strip():
            said = {}


def lines_of(block: Block) -> Iterator[Line]:
    """The command lines of a block."""
    whole, start = "", 0
    for number, text in enumerate(block.text.splitlines(), block.line):
        if block.language == "console" and not whole and not text.startswith("$ "):
            continue
        start = start if whole else number
        whole += text.removeprefix("$ ") if block.language == "console" and not whole else text
        if whole.endswith("\\"):
            whole = whole[:-1] + " "
            continue
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield Line(f"{block.page}:{start}", whole)
        whole = ""
