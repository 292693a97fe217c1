"""What mkdocs is given: the generated pages, each with one title, and links that lead to written ones."""

from __future__ import annotations

import re

import pytest

from scripts.manual.hook import PAGES, on_files
from tests.support import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_one_title(name: str) -> None:
    page = PAGES[name]()
    assert page.startswith("# ")
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", page, flags=re.S), re.M)) == 1


def test_the_navigation_names_the_generated_pages() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert set(re.findall(r"reference/\w+\.md", text)) == set(PAGES)


def test_the_pages_are_added() -> None:
    structure = pytest.importorskip("mkdocs.structure.files", reason="mkdocs is not installed; `make docs` installs it")
    base = pytest.importorskip("mkdocs.config.base")
    config = base.load_config(str(ROOT / "mkdocs.yml")) if hasattr(base, "load_config") else None
    files = on_files(structure.Files([]), config)
    assert {file.src_uri for file in files} == set(PAGES)
