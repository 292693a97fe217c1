"""Every command of README, CONTRIBUTING and docs/: all judged by their programs' parsers, and run where they can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import SHELL, blocks_of, pages
from tests.docs.commands import problems
from tests.docs.miniature import Place
from tests.flow.shared import once
from tests.flow.test_smoke import drawn
from tests.support import ROOT

PAGES = [str(path.relative_to(ROOT)) for path in pages()]


def test_there_are_commands_to_look_at() -> None:
    found = [block for name in PAGES for block in blocks_of((ROOT / name).read_text("utf-8"), name)]
    assert len([block for block in found if block.language in SHELL]) > 10


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_stale(page: str, tmp_path: Path) -> None:
    assert problems((ROOT / page).read_text("utf-8"), page, tmp_path) == []


def runnable(page: str) -> bool:
    blocks = blocks_of((ROOT / page).read_text("utf-8"), page)
    return any(block.language in (*SHELL, "python") and not (block.needs or block.file) for block in blocks)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_what_a_page_tells_to_do_can_be_done(page: str, tmp_path: Path,
                                             tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Place(tmp_path, once(tmp_path_factory, "drawn", drawn))
    assert list(place.follow((ROOT / page).read_text("utf-8"), page)) == []


@pytest.mark.slow
def test_a_command_that_fails_is_noticed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = "```bash\npython scripts/check_db.py --img_db nowhere\n```\n\n```python\nassert False, 'wrong'\n```\n"
    first, second = Place(tmp_path, once(tmp_path_factory, "drawn", drawn)).follow(text, "p.md")
    assert first.startswith("p.md:2: scripts/check_db.py --img_db nowhere ends with 3")
    assert second.startswith("p.md:6: ")
    assert "wrong" in second
