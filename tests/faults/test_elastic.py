"""Ranks are killed and come back: the run goes on from its last commit and takes the samples of the undisturbed one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.elastic import HOSTS, SETTINGS, elastic, kill_newest_rank, ranks, samples, steps_made, worlds
from tests.flow import warm
from tests.processes import wait_until
from tests.support import config_of, run, write_config

pytestmark = pytest.mark.slow
STEPS, COMPARED = 300, 100
"""Enough for a rank to be started anew meanwhile, and few enough for the weights not to have parted by rounding."""


def config_for(folder: Path, stores: tuple[Path, Path], steps: int) -> Path:
    own: dict[str, dict[str, Any]] = {"optim": {**SETTINGS["optim"], "num_train_steps": steps},
                                      "output": {**SETTINGS["output"], "save_steps": COMPARED, "keep": 1000}}
    return write_config(folder / "run.json", config_of(stores, **SETTINGS | own | {"eval": {"valid_steps": steps}}))


def undisturbed(config: Path, folder: Path) -> Path:
    """The same run on one rank that nobody kills."""
    done = warm.run("train/itm_hn.py", "--config", config, "--elastic", "false", "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_course(ours: Path, theirs: Path) -> None:
    """Each step took the same samples, also when it was made twice, and the weights are the same but for rounding."""
    assert samples(ours) == samples(theirs)
    saved = [load_file(folder / f"ckpt/step-{COMPARED:08d}/model.safetensors") for folder in (ours, theirs)]
    for name in saved[0]:
        np.testing.assert_allclose(saved[0][name], saved[1][name], atol=2e-3)


def test_a_killed_rank_costs_the_updates_since_the_last_commit(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """Two ranks, one is killed, one goes on. The one in its place is killed while it starts: waited for, given up."""
    config, out = config_for(tmp_path, stores, STEPS), tmp_path / "out"
    with elastic(tmp_path, "train/itm_hn.py", "--config", config, "--output_dir", out) as process:
        wait_until(lambda: len(steps_made(out)) >= 12)
        assert kill_newest_rank(process)
        wait_until(lambda: worlds(out)[-1] == 1)
        wait_until(lambda: len(ranks(process)) == 2)
        assert kill_newest_rank(process)
        assert process.wait(200) == 0, (tmp_path / "log").read_text()[-3000:]
    assert worlds(out)[:2] == [2, 1]
    redone = len(steps_made(out)) - len(set(steps_made(out)))
    assert redone <= 5 * (len(worlds(out)) - 1)
    assert sorted(set(steps_made(out))) == list(range(1, STEPS + 1))
    assert_same_course(out, undisturbed(config, tmp_path / "alone"))
    said = (tmp_path / "log").read_text()
    assert "lost rank" in said
    assert "going on without" in said
    assert "did not find the others, and tries again" in said


def test_a_host_that_is_taken_away_leaves_in_a_line(stores: tuple[Path, Path], tmp_path: Path) -> None:
    config, out = config_for(tmp_path, stores, 150), tmp_path / "out"
    with elastic(tmp_path, "train/itm_hn.py", "--config", config, "--output_dir", out) as process:
        wait_until(lambda: len(steps_made(out)) >= 12)
        (tmp_path / "fewer").write_text(HOSTS.splitlines()[0])
        (tmp_path / "fewer").rename(tmp_path / "hosts")
        assert process.wait(200) == 0, (tmp_path / "log").read_text()[-3000:]
    assert worlds(out) == [2, 1]
    assert steps_made(out) == list(range(1, 151))
    assert (tmp_path / "log").read_text().count("itm_hn: the launcher has no place for this rank any more") == 1


@pytest.mark.soak
def test_a_rank_that_is_killed_every_20_seconds(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """For 3 minutes; prints what it cost."""
    steps = int(os.environ.get("SOAK_STEPS", 5000))
    config, out = config_for(tmp_path, stores, steps), tmp_path / "out"
    killed, begun = 0, time.monotonic()
    with elastic(tmp_path, "train/itm_hn.py", "--config", config, "--output_dir", out) as process:
        wait_until(lambda: len(steps_made(out)) >= 1)
        while time.monotonic() < begun + 180 and process.poll() is None:
            time.sleep(20)
            killed += kill_newest_rank(process)
        assert process.wait(1800) == 0, (tmp_path / "log").read_text()[-3000:]
    redone = len(steps_made(out)) - len(set(steps_made(out)))
    # Not the weights: after some hundred updates another rounding has picked another hard negative.
    assert samples(out) == samples(undisturbed(config, tmp_path / "alone"))
    print(f"killed {killed} times, {len(worlds(out))} groups {worlds(out)}, {redone} of {steps} updates made twice")


def test_an_elastic_run_needs_an_elastic_launcher(stores: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_for(tmp_path, stores, 4)
    done = run("train/itm_hn.py", "--config", config, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert "elastic=True: no elastic launcher started this; give horovodrun --min-np" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_elastic_run_says_how_many_anchors_an_update_takes(stores: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_for(tmp_path, stores, 4)
    done = run("train/itm_hn.py", "--config", config, "--output_dir", tmp_path / "out", "--global_batch_size", "0")
    assert done.returncode == 2
    assert "give --global_batch_size (train_batch_size 4 times the ranks that you start with)" in done.stderr
