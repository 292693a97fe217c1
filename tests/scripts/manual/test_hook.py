"""What mkdocs is given: the generated pages, each with one title, and links that lead to written ones."""

from __future__ import annotations

import re

import pytest

from scripts.manual.hook import PAGES
from tests.support import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_one_title(name: str) -> None:
    page = PAGES[name]()
    assert page.startswith("# ")
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", page, flags=re.S), re.M)) == 1


def test_the_navigation_names_the_generated_pages() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert set(re.findall(r"reference/\w+\.md", text)) == set(PAGES)
