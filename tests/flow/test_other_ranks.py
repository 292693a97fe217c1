"""Gone on with on another number of ranks, a run takes the samples that it would have taken, and learns the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flow import warm
from tests.items import items_config
from tests.support import config_of, events, write_config

pytestmark = pytest.mark.slow
STEPS, HALF = 8, 4
OUTPUT = {"log_steps": 1, "save_steps": 2, "keep": 9, "tensorboard": False}


def anchored(stores: tuple[Path, Path]) -> dict[str, Any]:
    return config_of(stores, optim={"num_train_steps": STEPS, "global_batch_size": 12}, output=OUTPUT,
                     eval={"valid_steps": STEPS}, matcher={"initializer_range": 0.3})


def in_batches(stores: tuple[Path, Path]) -> dict[str, Any]:
    """Statistics over the batch, dropout by item, and a caption branch whose loss is a mean over a rank's items."""
    return items_config(stores, optim={"num_train_steps": STEPS, "global_batch_size": 10, "warmup_steps": 0},
                        output=OUTPUT, eval={"valid_steps": STEPS}, matcher={"variant": "F", "input_dropout_p": 0.3})


REGIMES = {"train/itm_hn.py": anchored, "train/itm.py": in_batches}


@pytest.fixture(scope="module", params=REGIMES)
def alone(request: pytest.FixtureRequest, stores: tuple[Path, Path],
          tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """The program, the config, and the output folder of a run on one rank."""
    folder = tmp_path_factory.mktemp("alone")
    config = write_config(folder / "run.json", REGIMES[request.param](stores))
    train(request.param, config, folder / "out", ranks=1)
    return request.param, config, folder / "out"


def train(program: str, config: Path, out: Path, ranks: int, start: Path | None = None) -> None:
    resume = ("--resume", start) if start else ()
    done = warm.run(program, "--config", config, "--output_dir", out, *resume, ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_same(ours: Path, theirs: Path, first: int) -> None:
    """The samples to the bit, the costs but for the order of sums; of the updates after `first`."""
    each = [[event for event in events(folder, "train") if event["step"] > first] for folder in (ours, theirs)]
    assert len(each[0]) == len(each[1]) == STEPS - first
    assert [event["samples"] for event in each[0]] == [event["samples"] for event in each[1]]
    assert len({event["samples"] for event in each[0]}) == STEPS - first
    names = [name for name in each[0][0] if name in ("loss", "grad_norm", "lr", "caption") or "hinge" in name]
    assert {"loss", "grad_norm"} < set(names)
    numbers = [np.array([[event[name] for name in names] for event in some]) for some in each]
    assert numbers[1][:, names.index("loss")].std() > 0.001, "the losses move, so that their being equal says something"
    np.testing.assert_allclose(*numbers, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_run_goes_on_with_more_ranks(alone: tuple[str, Path, Path], ranks: int, tmp_path: Path) -> None:
    """Four ranks share twelve anchors in six parts, or ten items, unevenly."""
    program, config, reference = alone
    train(program, config, tmp_path / "out", ranks, reference / "ckpt" / f"step-{HALF:08d}")
    assert_same(tmp_path / "out", reference, HALF)


def test_a_run_of_three_ranks_goes_on_with_one(alone: tuple[str, Path, Path], tmp_path: Path) -> None:
    program, config, reference = alone
    train(program, config, tmp_path / "three", 3)
    assert_same(tmp_path / "three", reference, 0)
    train(program, config, tmp_path / "one", 1, tmp_path / "three" / "ckpt" / f"step-{HALF:08d}")
    assert_same(tmp_path / "one", reference, HALF)
