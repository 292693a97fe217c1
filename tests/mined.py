"""Embeddings made up for the mining tests, and what a float64 search over all pairs finds among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.batches.pairs import Array
from train.mining.filters import Excluded, positive_pairs
from train.mining.lists import Task

CPU = torch.device("cpu")


def embeddings(images: int, texts: int, width: int = 16, seed: int = 0, steps: int = 0) -> tuple[Tensor, Tensor]:
    """Normal numbers; with `steps`, multiples of 1 / steps, so that float32 products are exact and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(images, width, generator=generator), torch.randn(texts, width, generator=generator)
    return tuple((side * steps).round() / steps for side in drawn) if steps else drawn  # type: ignore[return-value]


def owners(images: int, texts: int, seed: int = 0) -> Array:
    """Each image has a caption; how many more is left to chance."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([np.arange(images), rng.integers(0, images, texts - images)]))


def task(images: int = 40, texts: int = 150, wanted: tuple[int, int] = (20, 7), width: int = 16, seed: int = 0,
         steps: int = 0, more: Sequence[tuple[Array, Array]] = ()) -> Task:
    """What a miner is asked for; `more` pairs are no candidates either."""
    sides = embeddings(images, texts, width, seed, steps)
    return Task(*sides, wanted, Excluded.of(positive_pairs(owners(images, texts, seed)), *more))


def searched(task: Task) -> tuple[Array, Array]:
    """`[n, k]` texts and `[m, k']` images, from a table of all float64 scores."""
    scores = task.images.double() @ task.texts.double().T
    scores[task.excluded.image, task.excluded.text] = -torch.inf
    both = []
    above = (None, None) if task.ceilings is None else (task.ceilings.images, task.ceilings.texts)
    for table, most, ceiling in zip((scores, scores.T.contiguous()), task.wanted, above, strict=True):
        allowed = table if ceiling is None else table.masked_fill(table > ceiling[:, None], -torch.inf)
        both.append(allowed.sort(dim=1, descending=True, stable=True).indices[:, :most].numpy())
    return both[0], both[1]
