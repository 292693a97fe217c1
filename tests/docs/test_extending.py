"""docs/extending.md: what the page builds is built as it says, trained in full length, and retrieves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.make_scenes import main as make_scenes
from tests.docs.blocks import SHELL, blocks_of
from tests.docs.miniature import Place
from tests.flow.shared import once
from tests.support import ROOT

pytestmark = pytest.mark.slow
PAGE = "docs/extending.md"
TEXT = (ROOT / PAGE).read_text("utf-8")
SIZE = ["--train", "120", "--val", "20", "--test", "40", "--workers", "1"]
CHANCE_R10 = 0.25
"""How often an image of 40 is among ten by chance; one of an image's five texts is among ten of 200 less often."""


class FullLength(Place):
    """As a reader does it: nothing is made smaller than the page has it."""

    def small(self, program: str, words: Sequence[str]) -> list[str]:
        return []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which everything on the page has been done."""

    def follow(folder: Path) -> None:
        assert make_scenes(["--output", str(folder / "scenes"), *SIZE]) == 0
        (folder / "house").mkdir()
        assert list(FullLength(folder / "house", folder).follow(TEXT, PAGE)) == []

    return once(tmp_path_factory, "extending", follow) / "house"


def recalls(place: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "runs" / run / "results.json").read_text())["test"]["recalls"]
    return found


def test_no_block_of_the_page_is_left_out() -> None:
    blocks = list(blocks_of(TEXT, PAGE))
    assert {block.language for block in blocks} == {"python", "json", "bash"}
    assert not [block for block in blocks if block.needs]
    assert all(block.file or block.language in ("python", *SHELL) for block in blocks)


@pytest.mark.parametrize("run", ["vse", "softmax"])
def test_what_is_built_trains_and_retrieves_better_than_chance(place: Path, run: str) -> None:
    lines = [json.loads(line) for line in (place / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    updates = json.loads((place / "runs" / run / "config.json").read_text())["optim"]["num_train_steps"]
    assert max(line.get("step", 0) for line in lines) == updates == 240
    found = recalls(place, run)
    assert found["img_r10"] > 2 * CHANCE_R10
    assert found["txt_r10"] > 2 * CHANCE_R10


def test_its_config_says_which_systems_they_are(place: Path) -> None:
    config = json.loads((place / "runs" / "softmax" / "config.json").read_text())
    assert config["matcher"] == {"name": "vse", "vocab_size": 381, "img_dim": 64, "embed_size": 128, "word_dim": 64}
    assert config["objective"] == {"name": "softmax", "temperature": 0.05}


def test_it_is_mined(place: Path) -> None:
    lists = place / "runs" / "vse" / "offline"
    assert sorted(path.name for path in lists.glob("*.npy")) == ["i2t_train.npy", "t2i_train.npy"]


def test_it_has_a_report(place: Path) -> None:
    assert "vse" in (place / "runs" / "vse" / "report.html").read_text("utf-8")
