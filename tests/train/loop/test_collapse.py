"""train/loop/collapse.py: a run whose scores are all alike is told of it, once, and no other is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from config.schema import Run
from tests.train.conftest import MakeRun
from train.assembly.recipe import build_recipe
from train.distributed.comm import Solo
from train.loop import collapse
from train.loop.batch_regime import BatchRegime
from train.loop.collapse import UPDATES, CollapseDetector, suggest_gentler
from train.loop.pool_regime import PoolRegime
from train.loop.trainer import Trainer
from train.metrics.journal import METRICS, Journal, read_events

FLAT = {"online_i": 0.2, "online_t": 0.2}


def watch(make_run: MakeRun, warmup: int = 0) -> CollapseDetector:
    run = make_run(optim={"warmup_steps": warmup, "num_train_steps": 1000})
    return CollapseDetector(run, 0.05, "this")


def test_it_takes_many_updates_at_the_margin_with_recall_at_chance(make_run: MakeRun) -> None:
    one = watch(make_run)
    assert [one.warning(step, FLAT, FLAT, 0.04) for step in (10, 50, 9 + UPDATES)] == ["", "", ""]
    told = one.warning(10 + UPDATES, FLAT, FLAT, 0.04)
    assert told.startswith(f"collapsed: for {UPDATES} updates the loss has stood at its margin")
    assert told.endswith("usual remedies are this")


@pytest.mark.parametrize(("paid", "plateaus", "recall"), [
    ({"online_i": 0.2, "online_t": 0.25}, FLAT, 0.04),
    (FLAT, FLAT, 0.3),
    (FLAT, {}, 0.04),
])  # fmt: skip
def test_one_healthy_line_begins_the_count_anew(
    paid: dict[str, float], plateaus: dict[str, float], recall: float, make_run: MakeRun
) -> None:
    one = watch(make_run)
    for step in (10, 60):
        assert one.warning(step, FLAT, FLAT, 0.04) == ""
    assert one.warning(100, paid, plateaus, recall) == ""
    assert one.warning(110, FLAT, FLAT, 0.04) == ""
    assert one.warning(100 + UPDATES, FLAT, FLAT, 0.04) == ""
    assert one.warning(110 + UPDATES, FLAT, FLAT, 0.04) != ""


def test_a_warm_up_may_look_so(make_run: MakeRun) -> None:
    one = watch(make_run, warmup=300)
    assert {one.warning(step, FLAT, FLAT, 0.0) for step in range(1, 300 + UPDATES, 50)} == {""}
    assert one.warning(301 + UPDATES, FLAT, FLAT, 0.0) != ""


def test_remedies_are_flags_that_the_objective_has(make_run: MakeRun) -> None:
    vsrn = {"name": "triplet"}
    assert suggest_gentler(make_run(objective=vsrn).objective, "") == (
        "a loss that rises slowly (--ramp 0.1), all negatives before the hardest (--hardest_from 0.1), a lower "
        "--learning_rate"
    )
    assert suggest_gentler(make_run().objective, "infonce") == "infonce, a lower --learning_rate"


def collapsed(run: Run, folder: Path) -> Trainer:
    """A trainer whose scores are all alike, and stay so."""
    trainer = Trainer(PoolRegime(build_recipe(run, Solo())), Journal(folder, tensorboard=False), folder)
    with torch.no_grad():
        for parameter in trainer.matcher.rank.parameters():
            parameter.zero_()
    return trainer


@pytest.fixture
def flat_run(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """`flat_run(**optim)`: a run that learns nothing, and is told so after two updates of that."""
    monkeypatch.setattr(collapse, "UPDATES", 2)
    monkeypatch.setattr(collapse, "LUCK", 99.0)  # of eight anchors some may be ahead by rounding
    usual = {"warmup_steps": 0, "learning_rate": 1e-12, "num_train_steps": 6}
    return lambda **optim: make_run(optim=usual | optim, output={"log_steps": 1}, eval={"valid_steps": 3})


def test_a_run_that_has_collapsed_says_so_once(flat_run: MakeRun, tmp_path: Path) -> None:
    assert collapsed(flat_run(), tmp_path).fit(None) == 0
    log = (tmp_path / "log.txt").read_text()
    assert log.count("collapsed: for 2 updates") == 1
    assert "(--objective infonce), negatives that are drawn at first (--mine_after 1), a lower" in log
    assert "step 3: collapsed" in log
    told = [event for event in read_events(tmp_path / METRICS) if event["event"] == "warning"]
    assert [(event["step"], event["text"].split(":")[0]) for event in told] == [(3, "collapsed")]


@pytest.mark.parametrize(("changed", "times"), [({}, 0), ({"learning_rate": 1e-13}, 1)])
def test_a_resumed_run_says_it_anew_only_with_other_settings(
    changed: dict[str, float], times: int, flat_run: MakeRun, tmp_path: Path
) -> None:
    assert collapsed(flat_run(), tmp_path / "first").fit(None) == 0
    again = collapsed(flat_run(**changed), tmp_path / "again")
    again.resume(tmp_path / "first" / "ckpt" / "step-00000003")
    assert again.fit(None) == 0
    assert (tmp_path / "again" / "log.txt").read_text().count("collapsed: for 2 updates") == times


def test_batches_are_watched_too(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "UPDATES", 2)
    run = make_run(objective={"name": "triplet"}, optim={"warmup_steps": 0, "train_batch_size": 8})
    regime = BatchRegime(build_recipe(run, Solo()))
    values = {"online_i": 1.6, "online_t": 1.6, "batch_r1_i": 0.1, "batch_r1_t": 0.0}
    told = [regime.warning(step, values) for step in (1, 2, 3)]
    assert [bool(line) for line in told] == [False, False, True]
    assert "--ramp 0.1" in told[2]
    assert regime.warning(4, values | {"online_i": 2.0}) == ""
