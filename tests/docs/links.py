"""Links of Markdown pages: to files, to headings, and to tests that a page names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.blocks import FENCE
from tests.support import ROOT

LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"`(tests/[\w/]+(?:\.py)?)`")
GENERATED = "reference/"


def prose_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a page outside its blocks, with their numbers."""
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if inside:
            inside = "" if line.strip() == inside else inside
        elif fence:
            inside = fence[1]
        else:
            yield number, line


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as mkdocs and GitHub name them where they agree."""
    headings = [line.lstrip("#") for _, line in prose_of(text) if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def broken(text: str, path: Path) -> list[str]:
    """Links of a page that lead nowhere; to the generated reference only mkdocs can tell."""
    found = []
    for number, line in prose_of(text):
        where = f"{path.relative_to(ROOT)}:{number}"
        found += [f"{where}: {name} does not exist" for name in NAMED_TEST.findall(line) if not (ROOT / name).exists()]
        for target in LINK.findall(line):
            name, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target) or name.startswith(GENERATED):
                continue
            place = path.parent / name if name else path
            if not place.exists():
                found.append(f"{where}: {target} does not exist")
            elif anchor and anchor not in anchors_of(place.read_text("utf-8") if name else text):
                found.append(f"{where}: {target}: the page has no such heading")
    return found
