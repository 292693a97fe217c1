"""The batch scripts without SLURM: what they start, how they end, when they requeue. Its commands are pretended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.support import ROOT

STUBS = {
    "scontrol": 'echo "scontrol $*" >>$HOME/calls; [ "$1" != show ] || printf "%s\\n" $NODES; [ -z "$REFUSE" ]',
    "squeue": "echo $STATE",
    "srun": 'echo "srun $MEETING_PORT $*" >>$HOME/calls',
    "python": 'echo "python $*" >>$HOME/calls; case "$*" in *"serve"*) echo 5005; exec sleep 60;; esac; exec sh "$@"',
}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a batch script as SLURM would, in a folder that holds pretended commands and a pretended project."""
    for name, text in STUBS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shutil.copytree(ROOT / "scripts/slurm", tmp_path / "scripts/slurm", ignore=shutil.ignore_patterns("__pycache__"))
    container = tmp_path / "launch_container.sh"
    container.write_text('#!/bin/sh\necho "container $*; passes$PASS" >>$HOME/calls\nshift 4\nexec "$@"\n')
    container.chmod(0o755)

    def started(script: str, *words: str, nodes: str = "n1", **variables: str) -> subprocess.Popen[str]:
        slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1", "STATE": "RUNNING",
                 "SLURM_JOB_NODELIST": nodes, "SLURM_JOB_NUM_NODES": str(len(nodes.split())), "NODES": nodes,
                 "HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHON": "python"}
        return subprocess.Popen(["bash", str(tmp_path / "scripts/slurm" / f"{script}.sbatch"), *words], cwd=tmp_path,
                                env=slurm | variables, stderr=subprocess.PIPE, text=True)

    return started


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def requeued(folder: Path) -> list[str]:
    return [call.split()[-1] for call in calls(folder) if call.startswith("scontrol requeue")]


def program(folder: Path, text: str) -> str:
    (folder / "program").write_text(text + "\n")
    return str(folder / "program")


@pytest.mark.parametrize("code", [0, 1, 2, 3, 75, 130])
def test_only_75_asks_for_another_start(code: int, start: Start, tmp_path: Path) -> None:
    with start("train", program(tmp_path, f"exit {code}")) as job:
        told = job.communicate(timeout=30)[1]
    assert job.returncode == code
    assert requeued(tmp_path) == (["7"] if code == 75 else [])
    assert ("saved; requeued" if code == 75 else f"ended with {code}") in told


@pytest.mark.parametrize(("variables", "expected", "told"), [
    ({"SLURM_RESTART_COUNT": "4", "REQUEUES": "5"}, ["7"], "start 4"),
    ({"SLURM_RESTART_COUNT": "5", "REQUEUES": "5"}, [], "not requeued: started again 5 times, REQUEUES=5"),
    ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, ["7_2"], "job 7_2: saved; requeued"),
    ({"REFUSE": "yes"}, ["7"], "could not be requeued; submit it again"),
])
def test_who_is_requeued_and_how_often(
    variables: dict[str, str], expected: list[str], told: str, start: Start, tmp_path: Path
) -> None:
    with start("train", program(tmp_path, "exit 75"), **variables) as job:
        assert told in job.communicate(timeout=30)[1]
    assert job.returncode == 75
    assert requeued(tmp_path) == expected


LISTENING = "trap 'sleep 1; exit 75' USR1; echo up >>$HOME/calls; while true; do sleep 0.05; done"


@pytest.mark.parametrize(("number", "state", "text", "expected"), [
    (signal.SIGUSR1, "RUNNING", LISTENING, ["7"]),
    (signal.SIGUSR1, "COMPLETING", LISTENING, ["7"]),
    (signal.SIGTERM, "RUNNING", LISTENING, ["7"]),
    (signal.SIGTERM, "COMPLETING", LISTENING, []),
    (signal.SIGUSR1, "RUNNING", "echo up >>$HOME/calls; exec sleep 60", ["7"]),
    (signal.SIGUSR1, "RUNNING", "trap 'exit 1' USR1; echo up >>$HOME/calls; while true; do sleep 0.05; done", []),
], ids=["told", "told-late", "preempted", "cancelled", "deaf", "failed"])
def test_ranks_are_told_and_waited_for(
    number: int, state: str, text: str, expected: list[str], start: Start, tmp_path: Path
) -> None:
    with start("train", program(tmp_path, text), STATE=state) as job:
        wait_until(lambda: "up" in calls(tmp_path), 30)
        job.send_signal(number)
        job.communicate(timeout=30)
    assert job.returncode == (1 if "exit 1" in text else 75)
    assert requeued(tmp_path) == expected


def test_horovodrun_starts_the_ranks_of_all_nodes(start: Start, tmp_path: Path) -> None:
    with start("train", "train/itm.py", "--a", "b c", nodes="n1 n2", SLURM_NTASKS_PER_NODE="4", NIC="ib0") as job:
        job.communicate(timeout=30)
    assert f"python {tmp_path}/scripts/launch.py -np 8 -H n1:4,n2:4 --network-interfaces ib0 python " \
        f"{tmp_path}/train/itm.py --a b c" in calls(tmp_path)


def test_srun_starts_ranks_that_know_where_to_meet(start: Start, tmp_path: Path) -> None:
    with start("mine", "--which", "best", nodes="n1 n2", SLURM_NTASKS_PER_NODE="2", SLURM_CPUS_PER_TASK="3",
               LAUNCHER="srun") as job:
        assert "ended with 0" in job.communicate(timeout=30)[1]
    assert f"python {tmp_path}/scripts/slurm/ranks.py serve n1:2,n2:2" in calls(tmp_path)
    step = next(call for call in calls(tmp_path) if call.startswith("srun"))
    assert step.startswith("srun 5005 --nodes=2 --ntasks-per-node=2 ")
    assert "--cpus-per-task=3" in step
    assert step.endswith(f"python {tmp_path}/scripts/slurm/ranks.py run python {tmp_path}/train/mine.py --which best")


FOLDERS = {"IMAGE": "x", "TXT_DB": "/t", "IMG_DB": "/i", "OUTPUT": "/o", "PRETRAIN": "/p"}


def test_in_an_image_everything_is(start: Start, tmp_path: Path) -> None:
    with start("evaluate", "--split", "val", SLURM_NTASKS_PER_NODE="2", **FOLDERS) as job:
        job.communicate(timeout=30)
    inside = "container /t /i /o /p python ./scripts/launch.py -np 2 -H localhost:2 python ./train/evaluate.py --split"
    assert f"{inside} val; passes NIC MEETING_PORT" in calls(tmp_path)


@pytest.mark.parametrize(("nodes", "variables", "told"), [
    ("n1", {"IMAGE": "x", "TXT_DB": "/t"}, "IMAGE=x needs IMG_DB, a folder to mount"),
    ("n1 n2", FOLDERS, "IMAGE on 2 nodes needs LAUNCHER=srun"),
    ("n1 n2", {"LAUNCHER": "mpirun"}, "LAUNCHER=mpirun: should be horovodrun or srun"),
])
def test_what_cannot_be_started_is_refused(
    nodes: str, variables: dict[str, str], told: str, start: Start, tmp_path: Path
) -> None:
    with start("train", "train/itm.py", nodes=nodes, **variables) as job:
        assert told in job.communicate(timeout=30)[1]
    assert job.returncode == 2
    assert requeued(tmp_path) == []


def test_a_task_of_an_array_takes_its_line(start: Start, tmp_path: Path) -> None:
    path = program(tmp_path, 'echo "got $1|$2" >>$HOME/calls')
    (tmp_path / "runs.txt").write_text(f"nothing\n{path} 'a b' c\nbroken 'quote\n")
    for task, told in ((1, "ended with 0"), (2, "line 3: quotes do not match"), (3, "has no line 4")):
        with start("array", "runs.txt", SLURM_ARRAY_JOB_ID="5", SLURM_ARRAY_TASK_ID=str(task)) as job:
            assert told in job.communicate(timeout=30)[1]
    assert "got a b|c" in calls(tmp_path)
