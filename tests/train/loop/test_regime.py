"""train/loop/regime.py: what a regime checks before the first batch, and the remedies it names."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from config.sections import Data
from data.batches.plan import DIGESTS
from tests.train.conftest import MakeRun, Pretended
from train.assembly.recipe import Recipe, build_recipe
from train.distributed.comm import Solo
from train.loop.pool_regime import PoolRegime
from train.loop.regime import check_anchors, check_changes, check_needs

POOLS, ITEMS = frozenset({"pools"}), frozenset({"items"})


def recipe_of(objective: str, needs: set[str], offers: frozenset[str] = frozenset()) -> Recipe:
    """As much of a recipe as is looked at: who asks for what, and whose name the message has."""
    run = SimpleNamespace(matcher=SimpleNamespace(name="towers"), objective=SimpleNamespace(name=objective))
    parts = {"objective": SimpleNamespace(needs=needs), "matcher": SimpleNamespace(offers=offers), "run": run}
    return SimpleNamespace(**parts)  # type: ignore[return-value]


@pytest.mark.parametrize(("needs", "offers", "remedy"), [
    ({"pools"}, ITEMS, "compares the candidates of anchored pools; train it with train/itm_hn.py, .*--objective tri"),
    ({"items"}, POOLS, "compares the items of a batch with each other; train it with train/itm.py, .*--objective hi"),
    ({"items", "offline"}, ITEMS, r"needs offline negatives; name the folder that train/mine.py wrote \(--offline F"),
    ({"items", "offline"}, POOLS, "compares the items .* and needs offline negatives; name"),
    ({"attention", "pools"}, POOLS, "needs attention, which matcher towers with these settings does not offer; choose "
                                    r"another matcher \(--matcher\), .* leave the objective")])
def test_what_nobody_hands_over_is_refused_with_its_remedy(
    needs: set[str], offers: frozenset[str], remedy: str
) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.name = odd: {remedy}") as caught:
        check_needs(recipe_of("odd", needs), offers)
    assert "\n" not in str(caught.value)


def test_what_matcher_and_regime_hand_over_together_is_enough() -> None:
    check_needs(recipe_of("odd", {"attention", "pools"}, frozenset({"attention"})), POOLS)
    check_needs(recipe_of("plain", set()), frozenset())


@pytest.mark.parametrize("objective", ["triplet", "quintuplet"])
def test_pools_refuse_an_objective_over_items(objective: str, make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.name = {objective}: compares the items of a batch"):
        PoolRegime(build_recipe(make_run(objective={"name": objective}), Solo()))


@pytest.mark.parametrize(("batch", "size", "fits"), [(48, 1, True), (49, 1, False), (24, 2, True), (25, 2, False)])
def test_an_update_never_wants_an_anchor_twice(batch: int, size: int, fits: bool, make_run: MakeRun) -> None:
    run = make_run(optim={"train_batch_size": batch}, negatives={"mining_batch": 1})
    if fits:
        check_anchors(run, 48, batch * size, size)
        return
    said = f"train_batch_size={batch} on {size} ranks? wants {batch * size} anchors an update, but there are only 48"
    with pytest.raises(ConfigError, match=said):
        check_anchors(run, 48, batch * size, size)


@pytest.mark.parametrize(("settings", "size", "advised"), [
    ({"train_batch_size": 50, "mining_batch": 10}, 1, "lower train_batch_size to 40"),
    ({"train_batch_size": 64, "mining_batch": 64}, 1, "lower train_batch_size to 48 and mining_batch to a divisor"),
    ({"train_batch_size": 50, "mining_batch": 1}, 49, "lower both, to at most 48 together"),
    ({"train_batch_size": 20, "mining_batch": 10}, 4, "lower train_batch_size to 10 or -np to 2"),
    ({"train_batch_size": 1, "mining_batch": 1}, 50, "lower -np to 48"),
    ({"global_batch_size": 60, "mining_batch": 10}, 1, "lower it to 40"),
    ({"global_batch_size": 40, "mining_batch": 20}, 3, "lower mining_batch, or lower -np to 2"),
])
def test_the_batch_that_is_advised_is_taken(
    settings: dict[str, int], size: int, advised: str, make_run: MakeRun
) -> None:
    negatives = {"mining_batch": settings.pop("mining_batch")}

    def check(**optim: int) -> None:
        run = make_run(optim=settings | optim, negatives=negatives)
        whole = run.optim.global_batch_size or run.optim.train_batch_size * size
        check_anchors(run, 48, whole // run.negatives.mining_batch, size)

    with pytest.raises(ConfigError, match=f"; {advised}( of it)?$"):
        check()
    value = re.search(r"(train_batch_size|it) to (\d+)( or .*)?$", advised)
    if value:
        check(**{next(iter(settings)): int(value[2])})


def test_a_global_batch_is_the_same_on_any_number_of_ranks(make_run: MakeRun) -> None:
    """Twelve anchors in passes of two are six parts: of four ranks, two take two of them and two take one."""
    recipe = build_recipe(make_run(optim={"global_batch_size": 12}), Solo())
    regimes = [PoolRegime(replace(recipe, comm=Pretended(rank, size))) for size in (1, 2, 4) for rank in range(size)]
    assert {regime.anchors_per_update for regime in regimes} == {12}
    assert [regime.passes for regime in regimes] == [12, 6, 6, 4, 4, 2, 2]
    marks = []
    for first, size in ((0, 1), (1, 2), (3, 4)):
        share = [islice(regime.plans(0), 3 * regime.passes) for regime in regimes[first : first + size]]
        marks.append(sum(plan.digest for plans in share for plan in plans) % DIGESTS)
    assert len(set(marks)) == 1


@pytest.mark.parametrize(("batch", "size", "said"), [
    (50, 1, "global_batch_size=50: there are only 48 anchors, and an update takes each once; lower it"),
    (4, 3, "makes 2 parts of mining_batch 2, too few for 3 ranks; raise it to 6, or lower -np to 2"),
])
def test_a_global_batch_that_cannot_be_shared_out_is_refused(
    batch: int, size: int, said: str, make_run: MakeRun
) -> None:
    recipe = build_recipe(make_run(optim={"global_batch_size": batch}), Solo())
    with pytest.raises(ConfigError, match=said):
        PoolRegime(replace(recipe, comm=Pretended(0, size)))


def test_a_regime_counts_the_anchors_of_all_its_ranks(make_run: MakeRun) -> None:
    """Of 48 captions, two ranks may take 24 each."""
    run = make_run(optim={"train_batch_size": 26})
    assert PoolRegime(build_recipe(run, Solo())).anchors_per_update == 26
    with pytest.raises(ConfigError, match=r"train_batch_size=26 on 2 ranks wants 52 .* only 48"):
        PoolRegime(build_recipe(run, Pretended(0, 2)))


def test_texts_that_are_read_must_fit_the_model(make_run: MakeRun) -> None:
    """And only those: the longest caption is too long to be an anchor, so it may be too long for the model."""
    regime = PoolRegime(build_recipe(make_run(data={"max_txt_len": 4}), Solo()))
    words = regime.recipe.train.index.words
    words[words.argmax()] = 97
    regime.check(regime.anchors)
    with pytest.raises(DataError, match="has 97 ids, its marks included, but the model takes 96"):
        regime.check(np.arange(len(words)))


@pytest.mark.parametrize("name", ["smallest_crop", "word_augment"])
def test_pools_refuse_random_changes(name: str) -> None:
    """Each of their images and texts is read once for many pairs: no item could key a draw."""
    check_changes(Data(**{name: 0.2}), ITEMS)
    check_changes(Data(), POOLS)
    with pytest.raises(ConfigError, match=rf"{name}=0\.2: only the items .* set it to 0, or train with train/itm\.py"):
        check_changes(Data(**{name: 0.2}), POOLS)


def test_a_pool_regime_asks_for_that_before_it_begins(make_run: MakeRun) -> None:
    recipe = build_recipe(make_run(), Solo())
    PoolRegime(recipe)
    recipe.run = recipe.run.model_copy(update={"data": recipe.run.data.model_copy(update={"word_augment": 0.2})})
    with pytest.raises(ConfigError, match=r"word_augment=0\.2: only the items of a batch"):
        PoolRegime(recipe)
