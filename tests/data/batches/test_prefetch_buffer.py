"""How much memory a batch may need."""

from __future__ import annotations

import numpy as np
import torch

from data.batches.loader import Loader
from data.batches.pairs import PairIndex
from data.batches.plan import ItemPlan
from data.batches.prefetch_buffer import Capacity


def test_capacity_is_enough_for_the_largest_choice(index: PairIndex) -> None:
    capacity = Capacity.of(index, 3, len(index.texts))
    assert capacity.regions == sorted(index.regions)[-1] + sorted(index.regions)[-2] + sorted(index.regions)[-3]
    assert capacity.words == index.words.sum()


def test_capacity_of_items_is_enough_for_the_largest_again_and_again(index: PairIndex) -> None:
    """Unlike that of different images and texts: all items of a batch may bring the same ones."""
    capacity = Capacity.of_items(index, 7)
    assert (capacity.regions, capacity.words) == (7 * index.regions.max(), 7 * index.words.max())
    longest = np.full(7, index.regions.argmax()), np.full(7, index.words.argmax())
    plan = ItemPlan(*longest, 0, 1, np.arange(7))
    (_, batch), = Loader(index, iter([plan]), capacity, 0, 1, torch.device("cpu"))
    assert batch.images.features.values.shape[0] == capacity.regions
