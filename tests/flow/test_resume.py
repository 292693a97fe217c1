"""Killed and started again with the same command, a run ends as if nothing had happened: to the bit, on one rank.

One run is killed, and one told to stop, that were started as a user would; the others are spared the import of torch.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.endings import assert_same_end
from tests.flow import warm
from tests.processes import entry, ranks_below, started, steps_logged, wait_until
from tests.support import config_of, events, write_config

pytestmark = pytest.mark.slow
STEPS = 60


def settings(stores: tuple[Path, Path], **sections: dict[str, Any]) -> dict[str, Any]:
    """A run that saves at odd places: in the middle of an epoch, and between two lines of the log."""
    own: dict[str, dict[str, Any]] = {
        "optim": {"num_train_steps": STEPS, "learning_rate": 3e-3}, "eval": {"valid_steps": 20},
        "output": {"save_steps": 7, "log_steps": 5}, "data": {"n_workers": 1}, "matcher": {"initializer_range": 0.2}}
    for name, values in sections.items():
        own.setdefault(name, {}).update(values)
    return config_of(stores, **own)


@pytest.fixture(scope="module")
def config(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "run.json", settings(stores))


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    done = warm.run("train/itm_hn.py", "--config", config, "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_run_goes_on_to_the_bit(attempt: int, config: Path, undisturbed: Path, tmp_path: Path) -> None:
    """`kill -9` at a random moment: in an update, in a validation, in a save, as it comes."""
    draw = random.Random(f"{attempt}-{time.time_ns()}")
    out, wanted, pause_s = tmp_path / "out", draw.randint(0, STEPS // 5 - 2), draw.random() * 0.3
    print(f"killed {pause_s:.3f} s after line {wanted} of the log")
    words = ("train/itm_hn.py", "--config", config, "--output_dir", out)
    start = warm.started(words, tmp_path / "log") if attempt else started(entry(*words), tmp_path / "log")
    with start as process:
        wait_until(lambda: steps_logged(out) >= wanted and (out / "metrics.jsonl").exists())
        time.sleep(pause_s)
        workers = psutil.Process(process.pid).children()
        process.kill()
        process.wait(10)
    assert not (out / "results.json").exists(), "killed too late to say anything"
    wait_until(lambda: not any(worker.is_running() for worker in workers), 10)
    done = warm.run("train/itm_hn.py", "--config", config, "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert_same_end(out, undisturbed, STEPS)


def test_sigterm_saves_and_leaves_with_75(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(entry("train/itm_hn.py", "--config", config, "--output_dir", out), tmp_path / "log") as process:
        wait_until(lambda: steps_logged(out) >= 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    saved = events(out, "saved")[-1]["step"]
    assert 15 <= saved < STEPS
    assert (out / "ckpt" / "latest").resolve().name == f"step-{saved:08d}"
    assert f"SIGTERM: saved at step {saved}" in (tmp_path / "log").read_text()
    done = warm.run("train/itm_hn.py", "--config", config, "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert events(out, "start")[-1]["step"] == saved
    assert_same_end(out, undisturbed, STEPS)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_other_signals_save_and_leave_too(number: int, code: int, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("train/itm_hn.py", "--config", config, "--output_dir", out)
    with warm.started(words, tmp_path / "log") as process:
        wait_until(lambda: steps_logged(out) >= 2)
        os.kill(process.pid, number)
        assert process.wait(30) == code
    assert (out / "ckpt" / "latest").resolve().name == f"step-{events(out, 'saved')[-1]['step']:08d}"


def test_sigterm_to_one_of_two_ranks_stops_both_after_saving(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """A scheduler tells one process; all ranks finish the same update, and the launcher's job ends."""
    out = tmp_path / "out"
    config = write_config(tmp_path / "c.json", settings(stores, optim={"num_train_steps": 4000}))
    words = entry("train/itm_hn.py", "--config", config, "--output_dir", out, ranks=2)
    with started(words, tmp_path / "log") as process:
        wait_until(lambda: steps_logged(out) >= 2)
        told = ranks_below(process)[1]
        told.send_signal(signal.SIGTERM)
        process.wait(60)
    saved = events(out, "saved")[-1]["step"]
    assert (out / "ckpt" / "latest").resolve().name == f"step-{saved:08d}"
    assert f"saved at step {saved}" in (tmp_path / "log").read_text()


def test_never_resuming_refuses_a_folder_with_checkpoints(config: Path, undisturbed: Path) -> None:
    done = warm.run("train/itm_hn.py", "--config", config, "--output_dir", undisturbed, "--resume", "never")
    assert done.returncode == 2
    assert "use --resume auto or another folder" in done.stderr


def test_a_finished_run_started_again_changes_nothing(config: Path, undisturbed: Path) -> None:
    weights = (undisturbed / "ckpt/latest/model.safetensors").read_bytes()
    results = (undisturbed / "results.json").read_text()
    done = warm.run("train/itm_hn.py", "--config", config, "--output_dir", undisturbed)
    assert done.returncode == 0, done.stderr
    assert (undisturbed / "ckpt/latest/model.safetensors").read_bytes() == weights
    assert (undisturbed / "results.json").read_text() == results


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_every_process_of_the_job_is_no_loss(number: int, config: Path, tmp_path: Path) -> None:
    """Schedulers signal the reading workers too; they go on until their parent has saved."""
    out = tmp_path / "out"
    words = ("train/itm_hn.py", "--config", config, "--output_dir", out)
    with warm.started(words, tmp_path / "log") as process:
        wait_until(lambda: steps_logged(out) >= 2)
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        assert len(family) == 2
        for member in family:
            member.send_signal(number)
        assert process.wait(30) == 75
        wait_until(lambda: not any(member.is_running() for member in family), 10)
    assert (out / "ckpt" / "latest").resolve().name == f"step-{events(out, 'saved')[-1]['step']:08d}"
