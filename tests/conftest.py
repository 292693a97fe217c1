"""Fixtures that several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from data.batches.pairs import PairIndex
from tests.support import open_index, write_stores

# Also for what the tests start: two threads each on two busy cores wait for each other a hundred times longer.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# A deadline in seconds fails on a busy machine, where nothing is wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny text store and its image store."""
    return write_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def index(stores: tuple[Path, Path]) -> PairIndex:
    """The tiny stores, joined."""
    return open_index(stores)
