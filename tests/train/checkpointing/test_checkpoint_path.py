"""train/checkpointing/checkpoint_path.py: what is said where a setting names something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import DataError
from tests.train.conftest import MakeRun
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.checkpoint_path import checkpoint_at
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Solo
from train.loop.claim import claim


@pytest.fixture
def out(make_run: MakeRun, tmp_path: Path) -> Path:
    folder = claim(make_run(output={"output_dir": str(tmp_path / "out")}), Solo())
    run = make_run().dump()
    Checkpoints(folder, keep=2).write(Snapshot(3, {}, {}, run))
    return folder


def test_checkpoints_and_files_of_weights_are_taken(out: Path, tmp_path: Path) -> None:
    newest = out / "ckpt" / "step-00000003"
    assert checkpoint_at(newest, "which") == newest
    assert checkpoint_at(out / "ckpt" / "latest", "resume", whole=True) == out / "ckpt" / "latest"
    for name in ("model.pt", "model_best.pth.tar", "weights"):
        (tmp_path / name).touch()
        assert checkpoint_at(tmp_path / name, "checkpoint") == tmp_path / name


def test_anything_else_is_told_as_what_it_is(out: Path, stores: tuple[Path, Path]) -> None:
    texts, images = stores
    for path, said in (
        (out, rf"is a run's output folder, no checkpoint; name one of its own, such as {out}/ckpt/best"),
        (out / "ckpt", "is the folder of a run's checkpoints, no checkpoint; name one of them, such as .*/latest"),
        (out / "config.json", "is a config file, no checkpoint; name a checkpoint folder or a file of weights"),
        (texts, "is a text store, no checkpoint"),
        (images, "is an image store of region features"),
        (texts / "data.mdb", "is the data file of a store"),
        (out / "ckpt" / "step-00000004", r"no such checkpoint; did you mean .*/step-00000003\?"),
        (out / "nowhere" / "x.pt", "no such checkpoint; name a checkpoint folder or a file of weights"),
    ):
        with pytest.raises(DataError, match=f"which={path}: {said}"):
            checkpoint_at(path, "which")


def test_weights_alone_are_nothing_to_go_on_from(out: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    (out / "ckpt" / "latest" / "state.pt").unlink()
    for path in (tmp_path / "model.pt", out / "ckpt" / "latest"):
        with pytest.raises(DataError, match=f"resume={path}: holds weights alone.*--checkpoint {path}"):
            checkpoint_at(path, "resume", whole=True)
