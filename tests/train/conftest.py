"""Runs, recipes and pretended ranks for the tests of the training floor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import load
from config.schema import Run
from tests.support import config_of
from train.assembly.kinds import KINDS
from train.distributed.comm import Solo

MakeRun = Callable[..., Run]


class Pretended(Solo):
    """One of several ranks that exists only on paper: it shares nothing, so only what it does itself is seen."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.fixture
def make_run(stores: tuple[Path, Path], tmp_path: Path) -> MakeRun:
    """`make_run(optim={...}, ...)`: a tiny checked run on the tiny stores; `on` names others."""

    def made(on: tuple[Path, Path] = stores, seed: int = 42, **sections: dict[str, Any]) -> Run:
        path = tmp_path / "run.json"
        path.write_text(json.dumps(config_of(on, **sections) | {"seed": seed}))
        return load(path, {}, KINDS)

    return made
