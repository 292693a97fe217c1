"""train/loop/trainer.py: the loop, its sums, its signals and its resumes, in one process."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from config.errors import DataError, Failure
from config.schema import Run
from tests.samples import NO_DROPOUT
from tests.support import events, write_stores
from tests.train.conftest import MakeRun
from train.assembly.optim import learning_rate
from train.assembly.recipe import build_recipe
from train.checkpointing.checkpoint import read_state, read_weights
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import RegroupRequested, Solo
from train.loop import pool_regime, validation
from train.loop.pool_regime import PoolRegime
from train.loop.trainer import Trainer
from train.metrics.journal import Journal

WITHOUT_CLOCK = ("loss", "hinge_i", "hinge_t", "grad_norm", "pool_r1_i", "pool_r1_t", "lr")


def trainer_of(run: Run, folder: Path) -> Trainer:
    return Trainer(PoolRegime(build_recipe(run, Solo())), Journal(folder, tensorboard=False), folder)


def fitted(run: Run, folder: Path) -> Trainer:
    """A run trained to its end; an error if it stopped before."""
    trainer = trainer_of(run, folder)
    assert trainer.fit(trainer.recipe.split("val")) == 0
    return trainer


def curve(folder: Path) -> list[list[float]]:
    return [[event[name] for name in WITHOUT_CLOCK] for event in events(folder, "train")]


def test_the_alignment_grows_with_the_updates_that_are_finished(make_run: MakeRun, tmp_path: Path) -> None:
    """Linear annealing over four updates, with a resume in their middle; a sum over the four anchors of each."""
    run = make_run(optim={"num_train_steps": 4}, eval={"valid_steps": 2}, matcher={"initializer_range": 0.5},
                   objective={"IAIS": "distributed", "tsa": "linear", "iais_weight": 3.0})
    whole, again = tmp_path / "whole", tmp_path / "again"
    fitted(run, whole)
    trainer = trainer_of(run, again)
    trainer.resume(whole / "ckpt" / "step-00000002")
    assert trainer.fit(None) == 0
    for folder, first in ((whole, 0), (again, 2)):
        for step, event in enumerate(events(folder, "train"), start=first):
            for way in "it":
                assert event[f"iais_{way}"] > 1e-4
                share = event[f"iais_weighted_{way}"] / (event[f"iais_{way}"] * run.optim.train_batch_size)
                assert share == pytest.approx(3.0 * step / 4, rel=1e-5)
            parts = sum(event[f"{name}_{way}"] for name in ("hinge", "iais_weighted") for way in "it")
            assert event["loss"] == pytest.approx(parts, rel=1e-5)


def test_a_run_logs_validates_and_saves(make_run: MakeRun, tmp_path: Path) -> None:
    run, folder = make_run(), tmp_path / "out"
    trainer = fitted(run, folder)
    assert trainer.step == 6
    assert trainer.slot == 6 * 4
    assert [event["step"] for event in events(folder, "train")] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in events(folder, "valid")] == [3, 6]
    assert [event["step"] for event in events(folder, "saved")] == [3, 6]
    rates = [event["lr"] for event in events(folder, "train")]
    assert rates == [learning_rate(run.optim, step) for step in range(1, 7)]
    start, = events(folder, "start")
    assert start["hash"] == run.hash()
    assert start["parameters"] == sum(p.numel() for p in trainer.matcher.parameters() if p.requires_grad)


def test_the_loss_is_the_sum_of_both_directions(make_run: MakeRun, tmp_path: Path) -> None:
    fitted(make_run(matcher={"initializer_range": 0.3}), tmp_path / "out")
    for event in events(tmp_path / "out", "train"):
        assert event["loss"] == pytest.approx(event["hinge_i"] + event["hinge_t"], rel=1e-6)
        assert 0 <= event["pool_r1_i"] <= 1


@pytest.mark.parametrize("mining_batch", [1, 4])
def test_anchors_scored_together_or_alone_train_the_same(mining_batch: int, make_run: MakeRun, tmp_path: Path) -> None:
    """Accumulation: two passes of two anchors, four of one, or one of four are one update of four."""
    common: dict[str, Any] = {"matcher": NO_DROPOUT | {"initializer_range": 0.3}, "optim": {"learning_rate": 3e-3}}
    fitted(make_run(**common), tmp_path / "two")
    fitted(make_run(**common, negatives={"mining_batch": mining_batch}), tmp_path / "other")
    torch.testing.assert_close(torch.tensor(curve(tmp_path / "other")), torch.tensor(curve(tmp_path / "two")),
                               rtol=2e-5, atol=1e-6)


def test_lines_of_the_log_are_means_over_their_updates(make_run: MakeRun, tmp_path: Path) -> None:
    fitted(make_run(), tmp_path / "each")
    fitted(make_run(output={"log_steps": 4}), tmp_path / "some")
    each, some = (torch.tensor(curve(tmp_path / name), dtype=torch.float64) for name in ("each", "some"))
    assert [event["step"] for event in events(tmp_path / "some", "train")] == [4, 6]
    torch.testing.assert_close(some[0, :-1], each[:4, :-1].mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(some[1, :-1], each[4:, :-1].mean(0), rtol=1e-6, atol=1e-7)


def test_a_resumed_run_ends_to_the_bit_the_same(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(output={"log_steps": 4, "save_steps": 1, "keep": 9})
    whole = fitted(run, tmp_path / "whole")
    again = trainer_of(run, tmp_path / "again")
    again.resume(tmp_path / "whole" / "ckpt" / "step-00000002")
    assert again.step == 2
    assert again.fit(again.recipe.split("val")) == 0
    for name, tensor in whole.matcher.state_dict().items():
        assert torch.equal(again.matcher.state_dict()[name], tensor), name
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")
    assert again.best == whole.best


def test_fp16_trains_and_resumes_with_its_scale(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(optim={"precision": "fp16", "num_train_steps": 3}, output={"save_steps": 1})
    trainer = fitted(run, tmp_path / "out")
    state = read_state(tmp_path / "out" / "ckpt" / "latest")
    assert state["scaler"] == trainer.recipe.precision.state_dict() != {}
    assert all(math.isfinite(event["loss"]) for event in events(tmp_path / "out", "train"))


def test_the_best_checkpoint_is_the_one_with_the_highest_number(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter([1.0, 7.0, 7.0, 3.0])
    monkeypatch.setattr(validation, "quick_check", lambda *_: {"rsum": next(numbers), "img_r1": 0.0})
    run = make_run(eval={"valid_steps": 2, "full_val": False}, optim={"num_train_steps": 8}, output={"keep": 1})
    trainer = fitted(run, tmp_path)
    assert trainer.best == 7
    best = trainer.checkpoints.best()
    assert best is not None
    assert best.name == "step-00000004", "the first of equals"
    assert sorted(path.name for path in (tmp_path / "ckpt").glob("step*")) == ["step-00000004", "step-00000008"]
    last = {name: tensor.clone() for name, tensor in trainer.matcher.state_dict().items()}
    assert trainer.load_best() == best
    loaded = trainer.matcher.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in read_weights(best).items())
    assert any(not torch.equal(loaded[name], last[name]) for name in last)


def test_without_a_validation_the_last_weights_are_the_best(make_run: MakeRun, tmp_path: Path) -> None:
    trainer = trainer_of(make_run(optim={"num_train_steps": 2}), tmp_path)
    assert trainer.fit(None) == 0
    assert trainer.load_best() == trainer.checkpoints.newest(print) is not None
    assert events(tmp_path, "valid") == []


def test_a_number_that_the_quick_check_lacks_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(eval={"full_val": False, "select_by": "txt_r1", "valid_steps": 1})
    with pytest.raises(Failure, match="select_by=txt_r1: the quick check has no such number"):
        fitted(run, tmp_path)


def test_a_checkpoint_of_another_vocabulary_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    fitted(make_run(), tmp_path / "out")
    other = make_run(on=write_stores(tmp_path, name="b", vocab_hash="e" * 64))
    with pytest.raises(DataError, match="trained with another vocabulary"):
        trainer_of(other, tmp_path / "other").resume(tmp_path / "out" / "ckpt" / "latest")


def test_updates_of_another_size_than_before_are_told_once(make_run: MakeRun, tmp_path: Path) -> None:
    """As on half the ranks, without global_batch_size."""
    fitted(make_run(optim={"train_batch_size": 8}), tmp_path / "out")
    for size, told in ((8, 0), (4, 1)):
        folder = tmp_path / str(size)
        trainer = trainer_of(make_run(optim={"train_batch_size": size}), folder)
        trainer.resume(tmp_path / "out" / "ckpt" / "latest")
        assert (folder / "log.txt").read_text().count(
            "an update takes 4 anchors now, on 1 rank; before it took 8, on 1 rank; --global_batch_size 8 keeps that"
        ) == told


def tell_in_update(trainer: Trainer, step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal to this process in the middle of an update, after the ranks were asked about stopping."""
    update = trainer.recipe.precision.step

    def told(optimizer: torch.optim.Optimizer) -> None:
        if trainer.step == step:
            os.kill(os.getpid(), number)
        update(optimizer)

    monkeypatch.setattr(trainer.recipe.precision, "step", told)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_lets_the_update_end_and_saves(
    number: int, code: int, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(make_run(optim={"num_train_steps": 50}, eval={"valid_steps": 50}), tmp_path)
    tell_in_update(trainer, 3, number, monkeypatch)
    before = signal.getsignal(number)
    assert trainer.fit(None) == code
    assert trainer.step == 5, "told in the fourth update, all ranks hear it in the fifth"
    assert [event["step"] for event in events(tmp_path, "saved")] == [5]
    assert signal.getsignal(number) == before


def test_a_signal_in_the_last_update_is_not_forgotten(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(make_run(optim={"num_train_steps": 3}), tmp_path)
    tell_in_update(trainer, 2, signal.SIGTERM, monkeypatch)
    assert trainer.fit(None) == 75
    assert [event["step"] for event in events(tmp_path, "saved")] == [3]


def test_ranks_leave_the_loop_together(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank was told: this one stops in the same update, though nobody signalled it."""
    trainer = trainer_of(make_run(optim={"num_train_steps": 50}, eval={"valid_steps": 50}), tmp_path)
    mean = trainer.comm.mean_async_

    def heard(tensor: torch.Tensor, name: str) -> Any:
        if name == "stop" and trainer.step == 4:
            tensor[0] += signal.SIGTERM / 2
        return mean(tensor, name)

    monkeypatch.setattr(trainer.comm, "mean_async_", heard)
    assert trainer.fit(None) == 75
    assert trainer.step == 5


def test_a_run_that_cannot_regroup_lets_hosts_come_and_go(make_run: MakeRun, tmp_path: Path) -> None:
    trainer = trainer_of(make_run(), tmp_path)
    trainer.comm.changed = True
    assert trainer.fit(None) == 0


def test_an_elastic_run_commits_and_regroups_where_hosts_have_come(make_run: MakeRun, tmp_path: Path) -> None:
    """What it goes on from is this very update; and what is committed is not changed by what follows."""
    run = make_run(cluster={"commit_steps": 2}, eval={"valid_steps": 50}, output={"save_steps": 50})
    held: list[Snapshot] = []
    regime, journal = PoolRegime(build_recipe(run, Solo())), Journal(tmp_path, tensorboard=False)
    trainer = Trainer(regime, journal, tmp_path, held.append)
    update = trainer.recipe.precision.step

    def joined(optimizer: torch.optim.Optimizer) -> None:
        trainer.comm.changed = trainer.step == 1
        update(optimizer)

    trainer.recipe.precision.step = joined  # type: ignore[method-assign]
    with pytest.raises(RegroupRequested, match="step 3"):
        trainer.fit(None)
    assert [snapshot.step for snapshot in held] == [2, 3]
    again = trainer_of(run, tmp_path / "again")
    again.restore(held[-1], "the last commit")
    before = {name: tensor.clone() for name, tensor in held[-1].weights.items()}
    moments = held[-1].state["optimizer"]["state"][0]["exp_avg"].clone()
    assert again.fit(None) == 0
    assert all(torch.equal(held[-1].weights[name], tensor) for name, tensor in before.items())
    assert torch.equal(held[-1].state["optimizer"]["state"][0]["exp_avg"], moments)
    whole = fitted(run, tmp_path / "whole")
    assert all(torch.equal(again.matcher.state_dict()[name], tensor) for name, tensor in
               whole.matcher.state_dict().items())


def test_mining_may_begin_later(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mined, mine = [], pool_regime.mine_hard_negatives

    def watched(*args: Any) -> Any:
        mined.append(trainer.step)
        return mine(*args)

    monkeypatch.setattr(pool_regime, "mine_hard_negatives", watched)
    trainer = trainer_of(make_run(negatives={"mine_after": 4}), tmp_path)
    trainer.fit(None)
    assert set(mined) == {4, 5}


def test_updates_after_a_validation_are_training_again(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no pool is mined, which would switch there and back by itself."""
    trainer = trainer_of(make_run(negatives={"mine_after": 9}, eval={"valid_steps": 2}), tmp_path)
    losses, modes = trainer.regime.losses, []

    def watched(*given: Any) -> Any:
        modes.append(trainer.matcher.training)
        return losses(*given)

    monkeypatch.setattr(trainer.regime, "losses", watched)
    trainer.fit(trainer.recipe.split("val"))
    assert modes == [True] * 6 * trainer.regime.passes


def test_a_regime_may_ask_to_be_prepared_again_and_again(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches go on where they were: what is prepared anew but comes out the same changes nothing."""
    run = make_run(data={"n_workers": 1})
    fitted(run, tmp_path / "whole")
    trainer, asked = trainer_of(run, tmp_path / "parts"), []

    def prepared(step: int, folder: Path, journal: Journal) -> int:
        asked.append((step, folder, journal))
        return step + 4

    monkeypatch.setattr(trainer.regime, "prepare", prepared)
    assert trainer.fit(trainer.recipe.split("val")) == 0
    assert asked == [(step, tmp_path / "parts", trainer.journal) for step in (0, 4)]
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_dropout_is_drawn_anew_for_each_pass_by_its_place_in_the_sequence(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by rank, step or history: another rank, or a resume, draws the same for the same anchors."""
    seeds: dict[Any, int] = {}
    run_pass, set_seed = Trainer._pass, torch.manual_seed
    place: list[Any] = []

    def watched(self: Trainer, plan: Any, *rest: Any, **words: Any) -> None:
        place[:] = [(plan.direction, plan.slot)]
        run_pass(self, plan, *rest, **words)

    def seeded(seed: int) -> Any:
        if place:
            assert seeds.setdefault(place[0], seed) == seed
        return set_seed(seed)

    monkeypatch.setattr(Trainer, "_pass", watched)
    monkeypatch.setattr(torch, "manual_seed", seeded)
    for batch in (4, 2):
        place.clear()
        trainer_of(make_run(optim={"train_batch_size": batch, "num_train_steps": 12 // batch, "warmup_steps": 1}),
                   tmp_path / str(batch)).fit(None)
    assert len(seeds) == len(set(seeds.values())) == 12


def spoil(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[int], bool], by: float) -> None:
    """Multiply the loss of every update (from 1) that is `wrong`, in its first pass."""
    losses = trainer.regime.losses

    def spoiled(plan: Any, batch: Any, step: int, clock: Any) -> Any:
        done = losses(plan, batch, step, clock)
        return replace(done, total=done.total * by) if wrong(step + 1) else done

    monkeypatch.setattr(trainer.regime, "losses", spoiled)


def watched_weights(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights and moments after every update, as it is counted."""
    kept: list[dict[str, torch.Tensor]] = []
    count = trainer.clock.count

    def counted(name: str, number: int) -> None:
        if name == "updates":
            moments = {f"{n}.{key}": torch.as_tensor(value) for n, state in trainer.recipe.optimizer.state_dict()[
                "state"].items() for key, value in state.items()}
            kept.append({name: t.clone() for name, t in (trainer.matcher.state_dict() | moments).items()})
        count(name, number)

    monkeypatch.setattr(trainer.clock, "count", counted)
    return kept


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("by", [math.nan, math.inf])
@pytest.mark.parametrize("optim", ["adamw", "torch_adamw"])
def test_an_update_whose_gradient_is_not_finite_changes_nothing_but_the_counters(
    optim: str, by: float, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(optim={"optim": optim, "weight_decay": 0.5, "warmup_steps": 0},
                   matcher={"initializer_range": 0.3}, output={"log_steps": 3})
    trainer = trainer_of(run, tmp_path)
    spoil(trainer, monkeypatch, lambda step: step in (2, 4, 5), by)
    after = watched_weights(trainer, monkeypatch)
    assert trainer.fit(None) == 0
    assert trainer.step == 6
    assert trainer.slot == 6 * 4, "what was left out is not made up for"
    assert [same(after[step], after[step - 1]) for step in range(1, 6)] == [True, False, True, True, False]
    assert all(torch.isfinite(tensor).all() for tensor in trainer.matcher.state_dict().values())
    assert [event["skipped"] for event in events(tmp_path, "train")] == [1, 2]
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 1, "once"
    assert "step 2: left out, for its gradient is not finite" in said[0]


def test_what_was_left_out_has_no_part_in_the_log(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Updates 2, 4, 5 and 6 of six: the first line is the mean of 1 and 3, the second has nothing but its rates."""
    logs = {}
    for every in (1, 3):
        trainer = trainer_of(make_run(output={"log_steps": every}), tmp_path / str(every))
        spoil(trainer, monkeypatch, lambda step: step in (2, 4, 5, 6), math.nan)
        assert trainer.fit(None) == 0
        logs[every] = events(tmp_path / str(every), "train")
    each, (first, second) = logs[1], logs[3]
    assert [event.get("skipped") for event in each] == [None, 1, None, 1, 1, 1]
    assert [event["skipped"] for event in (first, second)] == [1, 3]
    for name in set(WITHOUT_CLOCK) - {"lr"}:
        assert first[name] == pytest.approx((each[0][name] + each[2][name]) / 2, rel=1e-6)
        assert not any(name in event for event in (each[1], *each[3:], second))
    assert second["lr"] == each[5]["lr"]
    assert second["pairs_per_s"] > 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "step 6/6" in line)
    assert "pairs/s" in line
    assert "loss" not in line


def test_a_run_of_sound_updates_says_nothing_of_skipping(make_run: MakeRun, tmp_path: Path) -> None:
    fitted(make_run(), tmp_path)
    assert not any("skipped" in event for event in events(tmp_path, "train"))


def test_too_many_in_a_row_end_the_run_also_over_a_resume(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(optim={"most_skipped": 2, "num_train_steps": 9}, output={"save_steps": 1, "keep": 9})
    trainer = trainer_of(run, tmp_path / "out")
    spoil(trainer, monkeypatch, lambda step: step in (1, 2) or step > 3, math.nan)
    message = "step 6: the gradient was not finite in 3 updates in a row, where most_skipped allows 2"
    with pytest.raises(Failure, match=message):
        trainer.fit(None)
    again = trainer_of(run, tmp_path / "again")
    again.resume(tmp_path / "out" / "ckpt" / "step-00000005")
    spoil(again, monkeypatch, lambda step: True, math.nan)
    with pytest.raises(Failure, match=message):
        again.fit(None)


def test_a_resume_goes_on_counting_what_was_skipped(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(output={"log_steps": 6, "save_steps": 1, "keep": 9})
    whole = trainer_of(run, tmp_path / "whole")
    spoil(whole, monkeypatch, lambda step: step in (1, 5), math.inf)
    assert whole.fit(None) == 0
    again = trainer_of(run, tmp_path / "again")
    again.resume(tmp_path / "whole" / "ckpt" / "step-00000003")
    spoil(again, monkeypatch, lambda step: step in (1, 5), math.inf)
    assert again.fit(None) == 0
    for folder in ("whole", "again"):
        assert [event["skipped"] for event in events(tmp_path / folder, "train")] == [2]
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")
    assert all(math.isfinite(value) for value in curve(tmp_path / "whole")[0])
    assert same(again.matcher.state_dict(), whole.matcher.state_dict())


def test_fp16_counts_an_overflow_and_lowers_its_scale(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(make_run(optim={"precision": "fp16", "num_train_steps": 4}), tmp_path)
    spoil(trainer, monkeypatch, lambda step: step == 2, math.inf)
    after = watched_weights(trainer, monkeypatch)
    assert trainer.fit(None) == 0
    assert [event.get("skipped", 0) for event in events(tmp_path, "train")] == [0, 1, 0, 0]
    assert trainer.recipe.precision.state_dict()["scale"] == 2.0**15
    assert same(after[1], after[0])
    assert not same(after[2], after[1])
