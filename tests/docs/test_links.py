"""What the pages point at is there; README is short; the picture is the one that README describes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.docs.blocks import pages
from tests.docs.links import broken
from tests.support import ROOT

FETCHED = re.compile(r'<(?:script|img|iframe)[^>]* src="([^"]+)"|<link[^>]* rel="stylesheet"[^>]* href="([^"]+)"')
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("path", [*pages(), ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_no_link_is_broken(path: Path) -> None:
    assert broken(path.read_text("utf-8"), path) == []


@pytest.mark.parametrize("line", [
    "[a](nowhere.md)", "[a](docs/index.md#nowhere)", "[a](#nowhere)", "See `tests/nowhere/test_a.py`.",
])  # fmt: skip
def test_a_broken_link_is_noticed(line: str) -> None:
    text = f"# A heading\n\n[a](#a-heading) [b](docs/index.md)\n{line}\n\n```text\n[c](nothing)\n```\n"
    found = broken(text, ROOT / "README.md")
    assert len(found) == 1
    assert found[0].startswith("README.md:4: ")


def test_readme_is_one_page() -> None:
    assert len(README.splitlines()) <= 150


def test_the_picture_shows_what_readme_describes() -> None:
    """The SVG was rendered from the text that it carries; GitHub renders README's own."""
    described = re.search(r"```mermaid\n(.*?)```", README, re.S)
    carried = ElementTree.parse(ROOT / "docs/pictures/flow.svg").find("{http://www.w3.org/2000/svg}metadata")
    assert described
    assert carried is not None
    assert carried.text == described[1]


def test_the_navigation_names_every_page() -> None:
    """Also what mkdocs finds itself, without which a page that nobody reaches is noticed late."""
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = set(re.findall(r"[\w/]+\.md", settings[settings.index("nav:"):]))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert written == {name for name in named if not name.startswith("reference/")}


def test_the_citation_names_a_version_and_every_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert version
    assert str(citation["version"]) == version[1]
    assert all({"type", "title", "authors", "year"} <= paper.keys() for paper in citation["references"])
    assert len(citation["references"]) >= 6


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed; `make docs` installs it")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    built = {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}
    assert {Path("index.html"), Path("reference/settings.html"), Path("reference/programs.html")} <= built
    fetched = {found for path in built for pair in FETCHED.findall((tmp_path / "site" / path).read_text("utf-8"))
               for found in pair if found}
    assert fetched, "pages without any script or style"
    assert [address for address in fetched if address.startswith(("http:", "https:", "//"))] == []
