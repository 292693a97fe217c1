"""train/loop/pool_regime.py: the passes of an update over pools; the loop around them is proven in test_trainer.py."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from config.errors import ConfigError
from tests.samples import NO_DROPOUT
from tests.train.conftest import MakeRun
from train.assembly.recipe import build_recipe
from train.distributed.comm import Solo
from train.loop.pool_regime import PoolRegime
from train.metrics.clock import Clock


def regime_of(make_run: MakeRun, **negatives: object) -> PoolRegime:
    matcher = NO_DROPOUT | {"initializer_range": 0.3}
    return PoolRegime(build_recipe(make_run(matcher=matcher, negatives=negatives), Solo()))


def test_an_update_takes_all_its_anchors_of_both_directions(make_run: MakeRun) -> None:
    regime = regime_of(make_run, mining_batch=2)
    plans = list(islice(regime.plans(8), regime.passes))
    assert [(plan.direction, plan.slot, len(plan.pool_image)) for plan in plans] == [
        ("i", 8, 2), ("t", 8, 2), ("i", 10, 2), ("t", 10, 2)]
    assert regime.offers == {"pools"}


def test_a_pass_scores_whole_pools_and_trains_on_the_hardest(make_run: MakeRun) -> None:
    """Or, before mining begins, on the first drawn ones, which cost less and are all that is scored."""
    regime = regime_of(make_run, mine_after=1)
    plan, batch = next(iter(regime.loader(0)))
    random, mined = (regime.losses(plan, batch, step, Clock()) for step in (0, 1))
    assert (random.anchors, random.pairs) == (2, 2 * 4)
    assert (mined.anchors, mined.pairs) == (2, 2 * 8)
    assert mined.total > random.total
    assert regime.recipe.matcher.training


def test_what_the_passes_of_an_update_log_adds_up_to_its_mean(make_run: MakeRun) -> None:
    """Two passes of two anchors say what one of four does, but for the order of sums."""
    def of_update(mining_batch: int) -> dict[str, torch.Tensor]:
        regime, total = regime_of(make_run, mining_batch=mining_batch), {}
        for plan, batch in islice(regime.loader(0), regime.passes):
            for name, value in regime.losses(plan, batch, 0, Clock()).logged.items():
                total[name] = total.get(name, torch.zeros(())) + value
        return total

    two, four = of_update(2), of_update(4)
    assert two.keys() == {"loss", "hinge_i", "hinge_t", "pool_r1_i", "pool_r1_t"}
    torch.testing.assert_close(two, four, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two["loss"], two["hinge_i"] + two["hinge_t"])


def test_offline_candidates_are_not_silently_ignored(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"offline=lists: pools draw their own; leave it out, or train with itm\.py"):
        regime_of(make_run, offline="lists")
