"""Fixtures that several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.pairs import PairIndex
from tests.support import open_index, write_stores

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny text store and its image store."""
    return write_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def index(stores: tuple[Path, Path]) -> PairIndex:
    """The tiny stores, joined."""
    return open_index(stores)
