"""train/loop/training.py: which split the best checkpoint is chosen by, and what a run says of it."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from config.schema import Run
from tests.support import events, write_stores
from tests.train.conftest import MakeRun
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Solo
from train.loop import training, validation
from train.loop.pool_regime import PoolRegime
from train.scoring.scores import open_scores

ARGS = Namespace(dry_run=False, notes=[])
SAID = "the best checkpoint is chosen by its recalls of the test set, which are too high then"


def run_into(make_run: MakeRun, out: Path, test: tuple[Path, Path], **options: Any) -> Run:
    data = {"test_txt_db": str(test[0]), "test_img_db": str(test[1])}
    return make_run(data=data, eval={"valid_steps": 2} | options, optim={"num_train_steps": 2},
                    output={"output_dir": str(out)})  # fmt: skip


@pytest.fixture
def test_stores(tmp_path: Path) -> tuple[Path, Path]:
    """Others than those that are trained and validated on, of 12 images."""
    return write_stores(tmp_path, images=12, seed=3, name="t")


def measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(name, images) of every measurement of a run."""
    found: list[tuple[str, int]] = []
    measure = training.measure

    def watched(parts: Any, split: Any, name: str, *rest: Any, **words: Any) -> Any:
        found.append((name, len(split.index.images)))
        return measure(parts, split, name, *rest, **words)

    for module in (training, validation):
        monkeypatch.setattr(module, "measure", watched)
    assert training.Training(PoolRegime)(run, ARGS, Solo()) == 0
    return found


def test_the_best_checkpoint_is_chosen_by_the_validation_split(
    make_run: MakeRun, test_stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert measured(run_into(make_run, out, test_stores), monkeypatch) == [("val", 24), ("test", 12)]
    assert SAID not in (out / "log.txt").read_text()
    assert "selected_on" not in json.loads((out / "results.json").read_text())["test"]


def test_it_may_be_chosen_by_the_test_split_which_is_said(
    make_run: MakeRun, test_stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run = run_into(make_run, out, test_stores, select_on_test=True)
    assert measured(run, monkeypatch) == [("val", 12), ("test", 12), ("val", 24)]
    log = (out / "log.txt").read_text()
    assert SAID in log
    found = json.loads((out / "results.json").read_text())
    assert [found[name]["images"] for name in ("test", "val")] == [12, 24]
    for entry in found.values():
        assert entry["selected_on"] == "test"
        assert entry["checkpoint"] == "step-00000002"
    told = f"rsum {found['val']['recalls']['rsum']:.4g}, \"val\" in results.json"
    assert f"the same weights on the validation split, which had no part in their choice: {told}" in log
    measured_then = [(event["step"], event["split"]) for event in events(out, "valid")]
    assert measured_then == [(2, "val"), (2, "test")], "the curve of the choice is kept"
    assert len(open_scores(out / "scores" / "val").images) == 24


def test_folds_of_the_test_split_are_not_those_of_the_validation_split(
    make_run: MakeRun, test_stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_into(make_run, tmp_path / "out", test_stores, select_on_test=True, folds=12)
    measured(run, monkeypatch)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [found[name]["folds"] for name in ("test", "val")] == [12, 1]


def test_a_run_without_a_validation_split_may_choose_by_the_test_split_too(
    make_run: MakeRun, test_stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_into(make_run, tmp_path / "out", test_stores, select_on_test=True)
    without = run.data.model_copy(update={"val_txt_db": "", "val_img_db": ""})
    assert measured(run.model_copy(update={"data": without}), monkeypatch) == [("val", 12), ("test", 12)]
    assert json.loads((tmp_path / "out" / "results.json").read_text()).keys() == {"test"}


def test_a_run_that_begins_with_anothers_checkpoint_goes_on_from_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    """Or a job that is started again and again would begin again and again."""
    theirs, out = Checkpoints(tmp_path / "theirs", 2).write(Snapshot(2, {}, {}, make_run().dump())), tmp_path / "out"
    run = make_run(output={"output_dir": str(out), "resume": str(theirs)})
    assert training.resolve_resume(run, Solo()) == (theirs, [])
    own = Checkpoints(out, 2).write(Snapshot(4, {}, {}, {}))
    assert training.resolve_resume(run, Solo()) == (own, [])


def test_a_run_may_go_back_to_an_older_one_of_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    older, _ = [Checkpoints(tmp_path, 2).write(Snapshot(step, {}, {}, {})) for step in (4, 6)]
    run = make_run(output={"output_dir": str(tmp_path), "resume": str(older)})
    assert training.resolve_resume(run, Solo()) == (older, [])


def test_damaged_checkpoints_are_told_of(make_run: MakeRun, tmp_path: Path) -> None:
    older, newer = [Checkpoints(tmp_path, 2).write(Snapshot(step, {}, {}, {})) for step in (4, 6)]
    (newer / "state.pt").write_bytes(b"")
    run = make_run(output={"output_dir": str(tmp_path)})
    start, (said,) = training.resolve_resume(run, Solo())
    assert start == older
    assert "step-00000006: state.pt has 0 bytes" in said
    assert said.endswith("going on with step-00000004")
