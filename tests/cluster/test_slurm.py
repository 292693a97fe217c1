"""Jobs on a real SLURM cluster: preempted, out of time, requeued and gone on with, to the bit. `make slurm-test`.

Two nodes of one host: what is not tried is a network between them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster.slurm import Cluster, running_cluster
from tests.endings import last_words, plain
from tests.items import VSRN, items_config
from tests.processes import steps_logged, wait_until
from tests.support import ROOT, config_of, environment, events, write_config

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
STEPS = 120
LAUNCHERS = ("horovodrun", "srun")


def settings(stores: tuple[Path, Path], **sections: dict[str, Any]) -> dict[str, Any]:
    """A run that lasts seconds, and saves between two lines of the log."""
    own: dict[str, dict[str, Any]] = {
        "optim": {"num_train_steps": STEPS, "learning_rate": 3e-3}, "eval": {"valid_steps": 50},
        "output": {"save_steps": 37, "log_steps": 5}, "data": {"n_workers": 1}, "matcher": {"initializer_range": 0.2}}
    for name, values in sections.items():
        own.setdefault(name, {}).update(values)
    return config_of(stores, **own)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def config(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "run.json", settings(stores))


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on two local ranks, without SLURM."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    words = [sys.executable, "scripts/launch.py", "-np", "2", sys.executable, "train/itm_hn.py", "--config", config,
             "--output_dir", folder]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, env=environment(), capture_output=True, text=True,
                          timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def log_of(folder: Path, job: str) -> str:
    """The log of a job; nothing while there is none."""
    path = folder / f"slurm-{job}.log"
    return path.read_text() if path.exists() else ""


def starts(log: str) -> int:
    return len(re.findall(r"job [\d_]+: start \d+ on", log))


def assert_same_end(folder: Path, reference: Path) -> None:
    """The same weights, optimizer, generators, samples, metrics and scores."""
    ours, theirs = (place / "ckpt" / f"step-{STEPS:08d}" for place in (folder, reference))
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    states = [plain(torch.load(place / "state.pt", weights_only=True)) for place in (ours, theirs)]
    assert states[0] == states[1]
    for kind in ("train", "valid"):
        assert last_words(folder, kind) == last_words(reference, kind)
    assert (folder / "scores/test/matrix.npy").read_bytes() == (reference / "scores/test/matrix.npy").read_bytes()
    assert (folder / "results.json").read_text() == (reference / "results.json").read_text()


def test_preempted_jobs_go_on_to_the_bit(
    cluster: Cluster, config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Two jobs of two nodes, one by horovodrun and one by srun, make way for a third and come back."""
    outs = {launcher: tmp_path / launcher for launcher in LAUNCHERS}
    jobs = {launcher: cluster.submit("train", "train/itm_hn.py", "--config", config, "--output_dir", out,
                                     flags=("--nodes", "2", "--launcher", launcher))
            for launcher, out in outs.items()}
    for out in outs.values():
        wait_until(lambda out=out: steps_logged(out) >= 2, 240)
    begin = time.monotonic()
    above = cluster.preempt(seconds=2)
    for launcher, job in jobs.items():
        wait_until(lambda out=outs[launcher], job=job: "saved; requeued" in log_of(out, job), 120)
        print(f"{launcher}: saved and requeued {time.monotonic() - begin:.1f} s after the other job was submitted")
    assert cluster.finished(above)["JobState"] == "COMPLETED"
    for launcher, job in jobs.items():
        known, log = cluster.finished(job, 600), log_of(outs[launcher], job)
        assert (known["JobState"], known["Restarts"]) == ("COMPLETED", "1"), log
        stopped = int(re.findall(r"saved at step (\d+)", log)[0])
        assert 10 <= stopped < STEPS
        assert starts(log) == 2, "the log goes on where it was"
        assert [event["step"] for event in events(outs[launcher], "start")] == [0, stopped]
        assert [event["world"] for event in events(outs[launcher], "start")] == [2, 2]
        assert_same_end(outs[launcher], undisturbed)
        print(f"{launcher}: stopped at step {stopped} of {STEPS}, ended like the undisturbed run")


def test_the_time_limit_requeues_a_job(cluster: Cluster, stores: tuple[Path, Path], tmp_path: Path) -> None:
    """SLURM tells so long before the limit as --lead says, rounded to its minute: more than once, then."""
    config = write_config(tmp_path / "run.json", settings(stores, optim={"num_train_steps": 100_000}))
    out = tmp_path / "out"
    job = cluster.submit("train", "train/itm_hn.py", "--config", config, "--output_dir", out,
                         flags=("--ranks", "2", "--time", "1", "--lead", "15"))
    wait_until(lambda: "going on from" in log_of(out, job), 400)
    cluster.call("scancel", job)
    known, log = cluster.finished(job), log_of(out, job)
    assert known["JobState"] == "CANCELLED", "requeued by the time limit, and not when somebody cancels it"
    assert int(known["Restarts"]) == starts(log) - 1 >= 1
    saved = re.findall(r"told to stop by (.*): saved at step (\d+)", log)
    assert saved, log
    assert f"at step {saved[0][1]}" in log[log.index("going on from"):]
    print(f"told by {saved[0][0]}, saved at step {saved[0][1]}, requeued {known['Restarts']} time(s)")


def test_only_75_requeues_and_not_for_ever(cluster: Cluster, tmp_path: Path) -> None:
    """The batch script judges whatever ran: here a shell that leaves with a code."""
    program = tmp_path / "leave.sh"
    program.write_text("exit $1\n")
    jobs = {code: cluster.call("sbatch", "--parsable", f"--output={tmp_path}/slurm-%j.log",
                               "scripts/slurm/train.sbatch", program, str(code), PYTHON="/bin/sh", REQUEUES="1")
            for code in (0, 1, 2, 3, 130, 75)}
    for code, job in jobs.items():
        known, log = cluster.finished(job), log_of(tmp_path, job)
        assert known["ExitCode"] == f"{code}:0", log
        assert known["Restarts"] == ("1" if code == 75 else "0")
        assert starts(log) == (2 if code == 75 else 1)
    assert "not requeued: started again 1 times, REQUEUES=1" in log_of(tmp_path, jobs[75])


def test_a_job_told_before_its_ranks_can_listen_is_requeued(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "deaf.sh"
    program.write_text("echo deaf\nwhile true; do sleep 0.1; done\n")
    job = cluster.call("sbatch", "--parsable", f"--output={tmp_path}/slurm-%j.log", "scripts/slurm/train.sbatch",
                       program, PYTHON="/bin/sh")
    wait_until(lambda: "deaf" in log_of(tmp_path, job))
    # SLURM itself loses a signal to a step that has only just begun.
    wait_until(lambda: "saved; requeued" in log_of(tmp_path, job) or cluster.signal(job, "USR1"), 60)
    cluster.call("scancel", job)


def test_an_array_trains_each_line_of_its_file(cluster: Cluster, stores: tuple[Path, Path], tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.json", settings(stores, optim={"num_train_steps": 6}))
    outs = [tmp_path / "seed 1", tmp_path / "seed 2"]
    lines = [f"train/itm_hn.py --config {config} --seed {number} --output_dir '{out}'\n"
             for number, out in enumerate(outs, 1)]
    (tmp_path / "runs.txt").write_text("".join(lines))
    job = cluster.submit("array", tmp_path / "runs.txt", flags=("--at_once", "2"))
    for number, out in enumerate(outs):
        known = cluster.finished(f"{job}_{number}")
        assert known["JobState"] == "COMPLETED", log_of(tmp_path, f"{job}_{number}")
        assert events(out, "train")[-1]["step"] == 6
    weights = [(out / "ckpt/latest/model.safetensors").read_bytes() for out in outs]
    assert weights[0] != weights[1]


def test_models_are_measured_and_mined_with(
    cluster: Cluster, stores: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    """One job on two ranks of a node, one on a rank of each of two."""
    copy = shutil.copytree(undisturbed, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / "scores")
    (copy / "results.json").unlink()
    measuring = cluster.submit("evaluate", "--config", copy / "config.json", "--output_dir", copy, "--split", "test",
                               flags=("--ranks", "2"))
    config = write_config(tmp_path / "vsrn.json", items_config(stores) | {"matcher": VSRN})
    words = ("--config", config, "--which", "random", "--output_dir", tmp_path, "--texts_per_image", "5",
             "--images_per_text", "4")
    mining = cluster.submit("mine", *words, flags=("--nodes", "2", "--launcher", "srun"))
    for job, folder in ((measuring, copy), (mining, tmp_path)):
        assert cluster.finished(job)["JobState"] == "COMPLETED", log_of(folder, job)
    found, known = (json.loads((folder / "results.json").read_text())["test"] for folder in (copy, undisturbed))
    assert found["recalls"] == known["recalls"]
    assert "image to text" in log_of(copy, measuring)
    alone = tmp_path / "alone"
    done = subprocess.run([sys.executable, "train/mine.py", *map(str, words), "--lists", str(alone)], cwd=ROOT,
                          env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lists = sorted(path.name for path in alone.glob("*.npy"))
    assert lists
    for name in lists:
        assert (tmp_path / "offline" / name).read_bytes() == (alone / name).read_bytes()
