"""Submitting jobs to a pretended sbatch: what SLURM is asked for, and what is refused before it is asked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.command.program import run
from scripts.slurm import ranks, submit
from scripts.slurm.checks import seconds_of
from tests.support import ROOT, config_of, write_config

SBATCH = """#!/bin/sh
[ -z "$REFUSE" ] || { echo "sbatch: error: $REFUSE" >&2; exit 1; }
printf '%s\\n' "$@" >{folder}/asked
env >{folder}/environment
echo 4711
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls submit.py with the given words, beside a pretended sbatch; returns the exit code, stdout and stderr."""
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH.replace("{folder}", str(tmp_path)))
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/usr/bin:/bin")

    def called(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["submit.py", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            run(submit.main)
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return called


@pytest.fixture
def config(stores: tuple[Path, Path], tmp_path: Path) -> Path:
    return write_config(tmp_path / "run.json", config_of(stores))


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def variables(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / "environment").read_text().splitlines() if "=" in line)


def test_all_numbers_that_cannot_be_meant_are_told(call: Call, config: Path) -> None:
    code, _, told = call("--nodes", 0, "--ranks", 0, "--time", "1", "train", "train/itm_hn.py", "--config", config)
    assert code == 2
    assert told == ("submit.py: --nodes 0: should be 1 or more; --ranks 0: should be 1 or more; --time 1: is no longer "
                    "than --lead 120 s; the job would stop at once\n")


def test_paths_that_are_something_else_are_told(
    call: Call, config: Path, stores: tuple[Path, Path], tmp_path: Path
) -> None:
    texts, images = stores
    (tmp_path / "weights.pt").write_bytes(b"\xb0\x00")
    own = ("--config", config, "--output_dir", tmp_path / "out")
    for words, code, said in (
        (("train", "train/itm_hn.py", *own, "--train_txt_dbs", images, "--train_img_dbs", texts), 3,
         rf"{images} is not a text store: .* swapped\?; {texts} is not an image store: .* swapped"),
        (("evaluate", *own, "--which", tmp_path / "bset"), 3, "which=.*/bset: no such checkpoint; name a checkpoint"),
        (("evaluate", "train/evaluate.py", *own), 2, "train/evaluate.py: evaluate has its own program; leave the word"),
        (("array", tmp_path / "weights.pt"), 2, "weights.pt: is a file of weights and no text; name a file with one"),
        (("array", tmp_path), 2, "name a file with one command on each line"),
        (("trian", "train/itm_hn.py"), 2, "argument kind: invalid choice: 'trian' .*; --help lists all flags"),
    ):
        got, _, told = call("--dry-run", *words)
        assert got == code, told
        assert re.search(said, told)
        assert len(told.splitlines()) == 1


def test_a_training_job_is_submitted(call: Call, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("train/itm_hn.py", "--config", str(config), "--output_dir", str(out), "--margin", "0.3")
    code, said, told = call("--nodes", 2, "--ranks", 8, "--cpus", 4, "--time", "24:00:00", "--lead", 300, "--partition",
                            "gpu", "--launcher", "srun", "--nic", "ib0", "--sbatch=--account=me", "train", *words)
    assert (code, said) == (0, "4711\n"), told
    assert f"{out}/slurm-4711.log" in told
    assert asked(tmp_path) == [
        "--parsable", "--nodes=2", "--ntasks-per-node=8", "--signal=B:USR1@300", f"--output={out}/slurm-%j.log",
        "--gpus-per-node=8", "--cpus-per-task=4", "--time=24:00:00", "--partition=gpu", "--account=me",
        str(ROOT / "scripts/slurm/train.sbatch"), *words]
    given = variables(tmp_path)
    assert {name: given[name] for name in ("LAUNCHER", "NIC", "SOURCE", "PYTHON")} == {
        "LAUNCHER": "srun", "NIC": "ib0", "SOURCE": str(ROOT), "PYTHON": sys.executable}
    assert out.is_dir(), "SLURM does not make the folder of a log"


def test_a_dry_run_prints_everything_and_does_nothing(call: Call, config: Path, tmp_path: Path) -> None:
    code, said, _ = call("--dry-run", "--gpus", 0, "train", "train/itm.py", "--config", config, "--output_dir",
                         tmp_path / "out", "--objective", "triplet")
    assert code == 0
    assert said.startswith(f"SOURCE={ROOT} PYTHON=")
    assert " sbatch --parsable --nodes=1 --ntasks-per-node=1 " in said
    assert "--gpus" not in said.splitlines()[0]
    assert (ROOT / "scripts/slurm/train.sbatch").read_text() in said
    assert not (tmp_path / "asked").exists()
    assert not (tmp_path / "out").exists()


def test_each_line_of_a_file_becomes_a_task(call: Call, config: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs.txt"
    line = f"train/itm_hn.py --config {config} --output_dir '{tmp_path}/seed "
    runs.write_text("".join(f"{line}{number}'\n" for number in range(3)))
    code, _, told = call("--at_once", 2, "array", runs)
    assert code == 0, told
    assert "--array=0-2%2" in asked(tmp_path)
    assert f"--output={tmp_path}/slurm-%A_%a.log" in asked(tmp_path)


def test_evaluation_and_mining_name_their_own_programs(call: Call, config: Path, tmp_path: Path) -> None:
    for kind in ("evaluate", "mine"):
        code, _, told = call(kind, "--config", config, "--output_dir", tmp_path / "out")
        assert code == 0, told
        assert asked(tmp_path)[-5:] == [str(ROOT / f"scripts/slurm/{kind}.sbatch"), "--config", str(config),
                                        "--output_dir", str(tmp_path / "out")]


def test_an_image_is_passed_on_with_its_folders(call: Call, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("txt", "img", "storage", "pretrain")]
    for folder in folders:
        folder.mkdir()
    code, _, told = call("--nodes", 2, "--launcher", "srun", "--image", "crossmatch", "--mount", *folders, "train",
                         "train/itm_hn.py", "--config", "config/demo-uniter.json", "--output_dir", "/storage/run1")
    assert code == 0, told
    assert "flags are not checked" in told
    given = variables(tmp_path)
    assert [given[name] for name in ("TXT_DB", "IMG_DB", "OUTPUT", "PRETRAIN")] == list(map(str, folders))
    assert f"--output={folders[2]}/slurm-%j.log" in asked(tmp_path)


TRAIN = ("train", "train/itm_hn.py", "--config", "CONFIG", "--output_dir", "OUT")
REFUSED = [
    ((*TRAIN, "--lerning_rate", "1"), 2, "--lerning_rate"),
    ((*TRAIN, "--learning_rate", "-1"), 2, "learning_rate"),
    (("train", "train/itm_hn.py", "--config", "CONFIG"), 2, "output_dir is not set; give --output_dir FOLDER"),
    (("train", "train/loop/step.py"), 2, "train/loop/step.py: no such program; begin with one of train/itm_hn.py"),
    (("train",), 2, "no program is named; begin with one of"),
    ((*TRAIN, "--train_txt_dbs", "nowhere.db"), 3, "nowhere.db is not a text store: it does not exist"),
    (("--nodes", 0, *TRAIN), 2, "--nodes 0: should be 1 or more"),
    (("--gpus", -1, *TRAIN), 2, "--gpus -1: should be 0 or more"),
    (("--time", "soon", *TRAIN), 2, "--time soon: should be minutes"),
    (("--time", "2", *TRAIN), 2, "--time 2: is no longer than --lead 120 s; the job would stop at once"),
    (("--at_once", 2, *TRAIN), 2, "--at_once is of array jobs"),
    (("--image", "crossmatch", *TRAIN), 2, "--image and --mount TXT_DB IMG_DB OUTPUT PRETRAIN come together"),
    (("--image", "x", "--mount", "TMP", "TMP", "nowhere", "TMP", *TRAIN), 2, "OUTPUT nowhere is no folder"),
    (("--nodes", 2, "--image", "x", "--mount", "TMP", "TMP", "TMP", "TMP", *TRAIN), 2, "needs --launcher srun"),
    (("array",), 2, "an array job is given one file with a command on each line"),
    (("array", "nowhere.txt"), 2, "nowhere.txt: No such file or directory; name a file with one command on each line"),
]


@pytest.mark.parametrize(("words", "code", "told"), REFUSED)
def test_what_would_fail_is_refused(
    words: tuple[str | int, ...], code: int, told: str, call: Call, config: Path, tmp_path: Path
) -> None:
    meant = {"CONFIG": str(config), "OUT": str(tmp_path / "out"), "TMP": str(tmp_path)}
    found, said, why = call(*(meant.get(str(word), str(word)) for word in words))
    assert (found, said) == (code, "")
    assert told in why
    assert len([line for line in why.splitlines() if not line.startswith("flags are")]) == 1
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(("lines", "told"), [
    ("", "is empty; write one command on each line"),
    ("train/itm_hn.py --a 'b\n", "line 1: No closing quotation; close the quotes"),
    ("GOOD\n\nGOOD\n", "line 2: is empty; every line is the command of one task"),
    ("GOOD\nGOOD\n", "two tasks write to OUT; give each its own --output_dir"),
])
def test_a_file_of_commands_is_checked(lines: str, told: str, call: Call, config: Path, tmp_path: Path) -> None:
    out, runs = str(tmp_path / "out"), tmp_path / "runs.txt"
    runs.write_text(lines.replace("GOOD", f"train/itm_hn.py --config {config} --output_dir {out}"))
    code, _, why = call("array", runs)
    assert code == 2
    assert told.replace("OUT", out) in why


def test_a_folder_of_another_run_is_refused(call: Call, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text(config.read_text())
    words = ("train", "train/itm_hn.py", "--config", config, "--output_dir", out)
    assert call(*words)[0] == 0
    code, _, told = call(*words, "--margin", "0.7")
    assert code == 2
    assert f"output_dir={out}: holds a run with other settings (objective.margin was 0.2, now 0.7); name" in told


def test_without_sbatch_and_where_slurm_refuses(
    call: Call, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "train/itm_hn.py", "--config", config, "--output_dir", tmp_path / "out")
    monkeypatch.setenv("REFUSE", "invalid partition")
    code, _, told = call(*words)
    assert (code, told) == (1, "submit.py: SLURM refused the job: sbatch: error: invalid partition\n")
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, told = call(*words)
    assert code == 2
    assert "there is no sbatch here" in told


@pytest.mark.parametrize(("limit", "seconds"), [
    ("90", 5400), ("5:30", 330), ("2:00:01", 7201), ("1-2", 93600), ("1-2:30", 95400), ("1-0:0:5", 86405)])
def test_time_limits_are_read_as_slurm_reads_them(limit: str, seconds: int) -> None:
    assert seconds_of(limit) == seconds


def task(**others: str) -> dict[str, str]:
    """The variables of the third task of five, on two nodes with three and two of them."""
    return {"SLURM_PROCID": "3", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "3,2",
            "SLURMD_NODENAME": "n2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "MEETING_PORT": "5005"} | others


def test_a_task_of_srun_becomes_a_rank() -> None:
    found = ranks.horovod_variables(task(SLURM_CPUS_PER_TASK="4"))
    assert found["HOROVOD_RANK"] == "3"
    assert found["HOROVOD_SIZE"] == "5"
    assert (found["HOROVOD_LOCAL_RANK"], found["HOROVOD_LOCAL_SIZE"]) == ("0", "2")
    assert (found["HOROVOD_CROSS_RANK"], found["HOROVOD_CROSS_SIZE"]) == ("1", "2")
    assert found["HOROVOD_GLOO_IFACE"] == "lo"
    assert found["OMP_NUM_THREADS"] == "4"
    last = ranks.horovod_variables(task(SLURM_LOCALID="2", SLURM_NODEID="0", SLURM_PROCID="2", NIC="ib0"))
    assert (last["HOROVOD_CROSS_RANK"], last["HOROVOD_CROSS_SIZE"]) == ("0", "1"), "the other node has no third task"
    assert last["NCCL_SOCKET_IFNAME"] == "ib0"
    assert "OMP_NUM_THREADS" not in last


def test_nodes_with_as_many_tasks_are_counted_in_slurms_short_form() -> None:
    assert ranks.tasks_on_nodes("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match=r"SLURM_STEP_TASKS_PER_NODE=two: should look like 2\(x3\),1"):
        ranks.tasks_on_nodes("two")


@pytest.mark.parametrize("name", ["SLURM_PROCID", "MEETING_PORT"])
def test_a_rank_that_srun_did_not_start_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not set; .*LAUNCHER=srun"):
        ranks.horovod_variables({key: value for key, value in task().items() if key != name})
