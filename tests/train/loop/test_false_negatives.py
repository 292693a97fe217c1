"""train/loop/false_negatives.py: captions of an image's own words are no negatives of it, on any number of ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from config import load
from config.errors import ConfigError
from config.schema import Run
from data.batches.pairs import PairIndex
from data.batches.plan import ItemPlan
from tests.items import items_config, random_candidates, write_candidates
from tests.ranks import on_ranks
from tests.support import config_of
from tests.train.conftest import Pretended
from train.assembly.kinds import KINDS
from train.assembly.recipe import build_recipe
from train.distributed.comm import Comm, Solo
from train.loop.batch_regime import BatchRegime, match_batch
from train.loop.false_negatives import find_false_negatives, mask_false_negatives
from train.loop.pool_regime import PoolRegime
from train.metrics.clock import Clock

ITEMS = 16


def made(config: dict[str, Any], tmp_path: Path) -> Run:
    (tmp_path / "run.json").write_text(json.dumps(config))
    return load(tmp_path / "run.json", {}, KINDS)


@pytest.fixture
def run(stores: tuple[Path, Path], index: PairIndex, tmp_path: Path) -> Run:
    """A run with offline negatives in which captions of the same words are spared."""
    lists = write_candidates(tmp_path / "lists", random_candidates(index), index.order_hash)
    negatives = {"offline": str(lists), "offline_range": 10, "mask_same_words": True}
    return made(items_config(stores, negatives=negatives, objective={"name": "quintuplet"},
                             optim={"train_batch_size": ITEMS}), tmp_path)  # fmt: skip


def by_words(index: PairIndex) -> Tensor:
    """`[images, texts]`: other images' captions of the words of one of the image's own; written as a loop."""
    words = [tuple(index.sources[0].texts.tokens(text)) for text in index.texts]
    spared = torch.zeros(len(index.images), len(words), dtype=torch.bool)
    for image in range(len(index.images)):
        own = {words[text] for text in index.captions(image)}
        for text, said in enumerate(words):
            spared[image, text] = said in own and int(index.owner[text]) != image
    return spared


def spread(regime: BatchRegime, comm: Comm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Over some updates: what is spared in each, whose pairs these are, which offline pairs are no negatives."""
    found = []
    for (plan, batch), _ in zip(regime.loader(0), range(6), strict=False):
        assert isinstance(plan, ItemPlan)
        matched = match_batch(regime.recipe.matcher, batch, comm, regime.recipe.precision.autocast)
        out = mask_false_negatives(matched, plan, regime.false_negatives, comm)
        assert out.false_negatives is not None
        assert out.offline is not None
        own = torch.from_numpy(np.stack([plan.images, plan.texts]).reshape(2, 3, -1))
        numbers = comm.gather(own.permute(2, 0, 1).contiguous(), "pairs")
        found.append((out.false_negatives, numbers[:, 0], numbers[:, 1], out.offline.related))
    return tuple(torch.stack(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def test_a_batch_spares_what_the_words_of_all_captions_say(run: Run, index: PairIndex) -> None:
    expected, told = by_words(index), 0
    for spared, images, texts, related in zip(*spread(BatchRegime(build_recipe(run, Solo())), Solo()), strict=True):
        for i in range(ITEMS):
            assert not expected[images[i, 0], texts[i, 1]], "drawn offline"
            assert not expected[images[i, 1], texts[i, 0]], "drawn offline"
            kin = any(expected[images[i, k], texts[i, k]] for k in (1, 2))
            assert related[i] == (kin or index.owner[texts[i, 1]] == images[i, 1])
            for j in range(ITEMS):
                assert spared[i, j] == expected[images[i, 0], texts[j, 0]]
                told += bool(spared[i, j])
    assert told, "the tiny stores repeat themselves"


def test_two_ranks_spare_what_one_spares(run: Run, stores: tuple[Path, Path], tmp_path: Path) -> None:
    alone = spread(BatchRegime(build_recipe(run, Solo())), Solo())
    halved = run.model_copy(update={"optim": run.optim.model_copy(update={"train_batch_size": ITEMS // 2})})
    recipes = [build_recipe(halved, Pretended(rank, 2)) for rank in range(2)]
    ranks = on_ranks(2, lambda comm: spread(BatchRegime(replace(recipes[comm.rank], comm=comm)), comm))
    for rank in ranks:
        assert all(map(torch.equal, rank, alone))


def test_nothing_is_spared_where_it_is_not_asked_for(run: Run, index: PairIndex) -> None:
    usual = run.model_copy(update={"negatives": run.negatives.model_copy(update={"mask_same_words": False})})
    assert len(find_false_negatives(index, usual)) == 0
    assert len(find_false_negatives(index, run)) == int(by_words(index).sum()) > 0


def test_the_recall_of_a_batch_knows_what_is_spared(run: Run) -> None:
    """All scores alike but those of what is spared, which is higher: else some item would be behind it."""
    regime = BatchRegime(build_recipe(run, Solo()))
    matcher = regime.recipe.matcher
    plan, batch = next(iter(regime.loader(0)))
    assert isinstance(plan, ItemPlan)
    spared = torch.from_numpy(regime.false_negatives.hold(plan.images[:ITEMS, None], plan.texts[:ITEMS]))
    assert spared.any()
    matcher.score = lambda *_: (torch.eye(ITEMS) + 2 * spared).requires_grad_()  # type: ignore[method-assign]
    logged = regime.losses(plan, batch, 0, Clock()).logged
    assert logged["batch_r1_i"] == logged["batch_r1_t"] == 1


def test_pools_hold_nothing_that_is_spared(stores: tuple[Path, Path], index: PairIndex, tmp_path: Path) -> None:
    expected, met = by_words(index).numpy(), {}
    for mask in (False, True):
        config = config_of(stores, negatives={"mask_same_words": mask})
        regime = PoolRegime(build_recipe(made(config, tmp_path), Solo()))
        pairs = [regime.pools.pool(way, slot) for way in ("i", "t") for slot in range(96)]  # type: ignore[arg-type]
        met[mask] = sum(expected[images, texts].sum() for images, texts in pairs)
    assert met[False] > 0
    assert met[True] == 0


@pytest.mark.parametrize(("name", "switch"), [("triplet", "mask_same_image"), ("quintuplet", "mask_true_pairs")])
def test_true_pairs_as_negatives_go_ill_with_it(name: str, switch: str, stores: tuple[Path, Path], tmp_path: Path,
                                                index: PairIndex) -> None:
    config = items_config(stores, negatives={"mask_same_words": True}, objective={"name": name, switch: False})
    run = made(config, tmp_path)
    with pytest.raises(ConfigError, match=rf"mask_same_words spares .*set {switch} to true, or mask_same_words to f"):
        find_false_negatives(index, run)
