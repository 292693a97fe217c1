"""Told to stop, in whatever it is doing: a run saves, leaves with 75 and goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.endings import assert_same_end
from tests.flow import warm
from tests.processes import steps_logged, wait_until
from tests.support import config_of, events, write_config

pytestmark = pytest.mark.slow
STEPS = 12
TRAIN = "train/itm_hn.py"


@pytest.fixture(scope="module")
def config(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validations that score few pairs at a time, so that a signal falls into one."""
    config = config_of(
        stores, optim={"num_train_steps": STEPS, "learning_rate": 3e-3}, output={"save_steps": 4, "log_steps": 2},
        eval={"valid_steps": 6, "tokens_per_block": 1}, matcher={"initializer_range": 0.2})  # fmt: skip
    return write_config(tmp_path_factory.mktemp("config") / "run.json", config)


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    done = warm.run(TRAIN, "--config", config, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def said(out: Path) -> str:
    return (out / "log.txt").read_text() if (out / "log.txt").exists() else ""


def assert_goes_on_to_the_same_end(config: Path, out: Path, undisturbed: Path) -> None:
    done = warm.run(TRAIN, "--config", config, "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert_same_end(out, undisturbed, STEPS)


def test_a_signal_in_a_validation_waits_for_no_more_than_the_checkpoint(
    config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The step is on disk before it is measured; what was not measured is made up for."""
    out = tmp_path / "out"
    with warm.started((TRAIN, "--config", config, "--output_dir", out), tmp_path / "log") as process:
        wait_until(lambda: "val: scoring" in said(out))
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait(60) == 75
    assert events(out, "valid") == []
    assert (out / "ckpt" / "latest").resolve().name == "step-00000006"
    assert_goes_on_to_the_same_end(config, out, undisturbed)
    assert events(out, "start")[-1]["step"] == 6


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_rank_in_a_validation_is_heard_by_both(
    told: int, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (TRAIN, "--config", config, "--output_dir", out, "--train_batch_size", "2")
    with warm.group(words, tmp_path, ranks=2) as ranks:
        wait_until(lambda: "val: scoring" in said(out))
        os.kill(ranks[told].pid, signal.SIGTERM)
        assert [rank.wait(60) for rank in ranks] == [75, 75]
    assert (out / "ckpt" / "latest").resolve().name == "step-00000006"
    done = warm.run(*words, ranks=2)
    assert done.returncode == 0, done.stderr
    assert [event["step"] for event in events(out, "valid")] == [6, 12, 12]


def test_the_time_that_a_run_was_given_is_a_signal_of_its_own(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    """However often it is over, the run ends, and ends the same."""
    out, lives = tmp_path / "out", 0
    while lives < 40:
        lives += 1
        done = warm.run(TRAIN, "--config", config, "--output_dir", out, "--stop_after", "2s")
        if done.returncode == 0:
            break
        assert done.returncode == 75, done.stderr
    assert lives > 1, "the run must not fit into its time, or nothing is shown"
    assert_same_end(out, undisturbed, STEPS)


def test_the_end_that_slurm_tells_is_kept(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3))
    done = warm.run(TRAIN, "--config", config, "--output_dir", tmp_path / "out", "--num_train_steps", "3000")
    assert done.returncode == 75, done.stderr
    assert steps_logged(tmp_path / "out") < 1500
