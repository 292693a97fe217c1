"""Candidates mined anew inside a training run: with the weights of the moment, and resumable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from config import load
from config.errors import ConfigError, DataError
from config.schema import Run
from data.batches.candidates import MANIFEST, ORDER
from data.batches.pairs import PairIndex
from tests.items import items_config, random_candidates, write_candidates
from train.assembly.kinds import KINDS
from train.assembly.recipe import build_recipe
from train.distributed.comm import Solo
from train.loop.batch_regime import BatchRegime
from train.loop.trainer import Trainer
from train.metrics.journal import Journal

EVERY = 4
"""Updates of an epoch: 48 captions, 12 an update."""


@pytest.fixture
def run(stores: tuple[Path, Path], index: PairIndex, tmp_path: Path) -> Run:
    """Two and a half epochs, with new candidates after each."""
    lists = write_candidates(tmp_path / "first", random_candidates(index))
    config = items_config(
        stores, optim={"num_train_steps": 10, "train_batch_size": 12}, eval={"valid_steps": 5}, output={"keep": 9},
        negatives={"offline": str(lists), "offline_range": 10, "refresh_every": 1}, objective={"name": "quintuplet"},
    )  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(config))
    return load(tmp_path / "run.json", {}, KINDS)


def trained(run: Run, folder: Path, start: Path | None = None) -> Trainer:
    trainer = Trainer(BatchRegime(build_recipe(run, Solo())), Journal(folder, tensorboard=False), folder)
    if start:
        trainer.resume(start)
    assert trainer.fit(None) == 0
    return trainer


def test_candidates_are_mined_after_each_epoch_with_the_weights_of_the_moment(run: Run, tmp_path: Path) -> None:
    trained(run, tmp_path / "out")
    mined = sorted(path.name for path in (tmp_path / "out" / "offline").iterdir())
    assert mined == [f"step-{EVERY:08d}", f"step-{2 * EVERY:08d}"]
    lists = [np.load(next((tmp_path / "out" / "offline" / name).glob("i2t_*.npy"))) for name in mined]
    assert lists[0].shape == lists[1].shape == (24, 10)
    assert not np.array_equal(*lists)
    told = [json.loads((tmp_path / "out" / "offline" / name / MANIFEST).read_text())["checkpoint"] for name in mined]
    assert told == mined
    assert "their order is trusted" in (tmp_path / "out" / "log.txt").read_text()


def test_new_candidates_follow_the_rules_of_the_first(run: Run, index: PairIndex, tmp_path: Path) -> None:
    """As the manifest of the first ones tells them."""
    first = Path(run.negatives.offline) / MANIFEST
    told = {"operands": "float16", "same_words": "left out", "score_margin": 0.25, "extra_pairs": None}
    first.write_text(json.dumps({ORDER: index.order_hash} | told))
    regime = BatchRegime(build_recipe(run, Solo()))
    mined = regime._mining
    assert (mined.operands, mined.same_words, mined.score_margin) == ("float16", True, 0.25)
    first.write_text(json.dumps({ORDER: index.order_hash} | told | {"extra_pairs": "a checksum"}))
    with pytest.raises(ConfigError, match="refresh_every: the first candidates leave out extra pairs"):
        BatchRegime(build_recipe(run, Solo()))


def test_a_run_resumed_between_two_minings_ends_to_the_bit_the_same(run: Run, tmp_path: Path) -> None:
    whole = trained(run, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "offline" / f"step-{EVERY:08d}", tmp_path / "again" / "offline" /
                    f"step-{EVERY:08d}")  # fmt: skip
    again = trained(run, tmp_path / "again", tmp_path / "whole" / "ckpt" / "step-00000005")
    for name, tensor in whole.matcher.state_dict().items():
        assert torch.equal(again.matcher.state_dict()[name], tensor), name


def test_mined_candidates_that_are_gone_are_missed_by_name(run: Run, tmp_path: Path) -> None:
    trained(run, tmp_path / "whole")
    with pytest.raises(DataError, match=r"step-00000004: the candidates that were mined here are gone"):
        trained(run, tmp_path / "again", tmp_path / "whole" / "ckpt" / "step-00000005")


def test_candidates_that_other_weights_mined_at_this_step_are_mined_anew(run: Run, tmp_path: Path) -> None:
    """As after a resume from a checkpoint before it, in another manner."""
    trained(run, tmp_path / "whole")
    mined, left = (tmp_path / folder / "offline" / f"step-{EVERY:08d}" for folder in ("whole", "again"))
    shutil.copytree(mined, left)
    manifest = json.loads((left / MANIFEST).read_text())
    (left / MANIFEST).write_text(json.dumps(manifest | {"weights": "others"}))
    np.save(left / "i2t_train.npy", np.zeros((24, 10), np.int32), allow_pickle=False)
    trained(run, tmp_path / "again")
    assert all((left / path.name).read_bytes() == path.read_bytes() for path in mined.iterdir())
