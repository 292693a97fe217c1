"""launch_container.sh: what each engine is asked to do (told by --dry-run), and what is refused beforehand."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import ROOT

ENGINES = ("docker", "podman", "apptainer", "singularity", "ch-run")
NAMED = ("docker", "podman")
"""Engines that run an image of a name, with flags for everything."""
TOOLS = ("bash", "cat", "dirname", "env", "id", "realpath", "sort", "timeout")


@dataclass
class Place:
    """A PATH of nothing but what the launcher needs and fake engines, four folders, and an unpacked image."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.root / "bin").mkdir()
        for tool in TOOLS:
            (self.root / "bin" / tool).symlink_to(shutil.which(tool) or tool)
        for name in ("txt db", "img", "out", "pre", "image/ch"):
            (self.root / name).mkdir(parents=True)
        (self.root / "image/ch/environment").write_text("PATH=/opt/venv/bin:/usr/bin\n")

    def engine(self, name: str, body: str = 'printf "%s\\n" "$@"') -> None:
        program = self.root / "bin" / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)

    @property
    def folders(self) -> list[str]:
        return [str(self.root / name) for name in ("txt db", "img", "out", "pre")]

    def run(self, *words: str, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE,
            **variables: str) -> subprocess.CompletedProcess[str]:
        """The launcher with these words, and no other variables than these."""
        known = {"PATH": str(self.root / "bin"), "HOME": str(self.root), **variables}
        return subprocess.run([str(ROOT / "launch_container.sh"), *words], stdin=stdin, stdout=stdout,
                              stderr=subprocess.PIPE, text=True, env=known, timeout=30)

    def planned(self, engine: str, *command: str, **variables: str) -> list[str]:
        """The words of the engine's command line."""
        if engine not in NAMED:
            variables.setdefault("IMAGE", str(self.root / "image"))
        done = self.run("--dry-run", *self.folders, *command, ENGINE=engine, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == 1
        return shlex.split(done.stdout)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    there = Place(tmp_path)
    for name in ENGINES:
        there.engine(name)
    return there


def mounts(words: list[str]) -> dict[str, tuple[str, bool]]:
    """Where in the image -> what of the host, and whether it can only be read; in any engine's spelling."""
    found = {}
    for flag, value in pairwise(words):
        if flag == "--mount":
            parts = value.split(",")
            keys = dict(part.split("=", 1) for part in parts if "=" in part)
            found[keys["dst"]] = (keys["src"], "readonly" in parts)
        elif flag in ("--bind", "-b"):
            source, target, *mode = value.split(":")
            found[target] = (source, mode == ["ro"])
    return found


def after(words: list[str], flag: str) -> list[str]:
    return [value for word, value in pairwise(words) if word == flag]


@pytest.mark.parametrize("engine", ENGINES)
def test_stores_and_weights_are_mounted_for_reading_and_the_output_for_writing(engine: str, place: Place) -> None:
    text, image, output, pretrained = place.folders
    found = mounts(place.planned(engine))
    only_read = engine != "ch-run"  # which has no such mounts
    assert found == {"/src": (str(ROOT), only_read), "/txt": (text, only_read), "/img": (image, only_read),
                     "/pretrain": (pretrained, only_read), "/storage": (output, False)}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_command_arrives_word_for_word(engine: str, place: Place) -> None:
    command = ["python", "a b", "it's", "$HOME", "", "*", '"', "--dry-run"]
    assert place.planned(engine, *command)[-len(command):] == command


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_command_it_is_a_shell(engine: str, place: Place) -> None:
    assert place.planned(engine)[-1] == "bash"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_shown_is_what_is_run(engine: str, place: Place) -> None:
    words = place.planned(engine, "python", "a b")
    image = {} if engine in NAMED else {"IMAGE": str(place.root / "image")}
    done = place.run(*place.folders, "python", "a b", ENGINE=engine, **image)
    assert done.returncode == 0
    assert done.stdout.splitlines() == words[words.index(engine) + 1:]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_command_s_exit_code_is_the_launcher_s(engine: str, place: Place) -> None:
    place.engine(engine, '[ "$1" = info ] || exit 75')
    assert place.run(*place.folders, "python", ENGINE=engine, IMAGE=str(place.root / "image")).returncode == 75


@pytest.mark.parametrize("engine", NAMED)
def test_it_runs_as_the_caller(engine: str, place: Place) -> None:
    assert after(place.planned(engine), "--user") == [f"{os.getuid()}:{os.getgid()}"]


def pretend_user(place: Place, number: int) -> None:
    place.root.joinpath("bin/id").unlink()
    place.engine("id", f'case "$1" in -u) echo {number} ;; -g) echo 100 ;; -G) echo 100 4000 ;; -un) echo ann ;; esac')


def test_another_user_keeps_number_and_groups(place: Place) -> None:
    pretend_user(place, 1234)
    words = place.planned("docker")
    assert (after(words, "--user"), after(words, "--group-add")) == (["1234:100"], ["4000"])
    assert {"USER=ann", "HOME=/tmp"} <= set(after(words, "--env"))
    words = place.planned("podman")
    assert (after(words, "--user"), after(words, "--userns")) == (["1234:100"], ["keep-id"])
    assert after(words, "--group-add") == ["keep-groups"]


def test_the_root_of_a_rootless_docker_is_the_caller(place: Place) -> None:
    pretend_user(place, 1234)
    place.engine("docker", 'echo "[name=seccomp,profile=builtin name=rootless]"')
    assert after(place.planned("docker"), "--user") == ["0:0"]


@pytest.mark.parametrize("engine", NAMED)
def test_network_and_shared_memory_are_the_host_s(engine: str, place: Place) -> None:
    words = place.planned(engine)
    assert (after(words, "--network"), after(words, "--ipc")) == (["host"], ["host"])
    assert "memlock=-1" in after(words, "--ulimit") or after(words, "--ulimit") == ["host"]


GPUS = [
    ("docker", "2,3", ["--gpus", '"device=2,3"']),
    ("docker", "0", ["--gpus", '"device=0"']),
    ("docker", None, ["--gpus", "all"]),
    ("podman", "2,3", ["--device", "nvidia.com/gpu=2", "--device", "nvidia.com/gpu=3"]),
    ("podman", None, ["--device", "nvidia.com/gpu=all"]),
    ("apptainer", "2,3", ["--nv"]),
    ("singularity", None, ["--nv"]),
]


def gpu_words(words: list[str]) -> list[str]:
    found: list[str] = []
    for word, value in pairwise(words):
        if word == "--gpus" or value.startswith("nvidia.com/"):
            found += [word, value]
        elif word == "--nv":
            found.append(word)
    return found


@pytest.mark.parametrize(("engine", "visible", "wanted"), GPUS)
def test_the_chosen_gpus_go_in(engine: str, visible: str | None, wanted: list[str], place: Place) -> None:
    place.engine("nvidia-smi")
    words = place.planned(engine, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    assert gpu_words(words) == wanted
    assert "CUDA_VISIBLE_DEVICES" not in after(words, "--env")  # the engine has given them new numbers


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("visible", ["", "-1"])
def test_no_gpus_means_none(engine: str, visible: str, place: Place) -> None:
    place.engine("nvidia-smi")
    words = place.planned(engine, CUDA_VISIBLE_DEVICES=visible)
    assert gpu_words(words) == []
    assert ("NVIDIA_VISIBLE_DEVICES=void" in after(words, "--env")) is (engine in NAMED)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_host_without_gpus_asks_for_none(engine: str, place: Place) -> None:
    assert gpu_words(place.planned(engine)) == []


@pytest.mark.parametrize("engine", NAMED)
def test_a_terminal_is_passed_on_where_there_is_one(engine: str, place: Place) -> None:
    ours, theirs = pty.openpty()
    try:
        place.run(*place.folders, stdin=theirs, stdout=theirs, ENGINE=engine)
        seen = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "--tty" in seen.split()
    assert "--tty" not in place.run(*place.folders, ENGINE=engine).stdout.split()


@pytest.mark.parametrize("engine", NAMED)
def test_variables_of_ranks_go_in_by_name_and_others_by_request(engine: str, place: Place) -> None:
    words = place.planned(
        engine,
        HOROVOD_RANK="1",
        NCCL_DEBUG="INFO",
        SLURM_JOB_ID="7",
        PYTORCH_ALLOC_CONF="x",
        TORCH_LOGS="y",
        SECRET="x",
        PASS="WANTED",
        WANTED="a b",
    )
    names = [name for name in after(words, "--env") if "=" not in name]
    assert names == ["HOROVOD_RANK", "NCCL_DEBUG", "PYTORCH_ALLOC_CONF", "SLURM_JOB_ID", "TORCH_LOGS", "WANTED"]
    assert not any("a b" in word for word in words if "txt db" not in word)


@pytest.mark.parametrize("engine", ["apptainer", "singularity", "ch-run"])
def test_what_leads_python_astray_stays_outside(engine: str, place: Place) -> None:
    words = place.planned(engine, PYTHONPATH="/elsewhere", LD_LIBRARY_PATH="/old")
    assert words[0] == "env"
    assert {"PYTHONPATH", "LD_LIBRARY_PATH"} <= set(after(words[:words.index(engine)], "-u"))


@pytest.mark.parametrize("engine", NAMED)
def test_a_folder_of_keys_becomes_the_home_s(engine: str, place: Place) -> None:
    keys = place.root / "keys"
    keys.mkdir()
    assert mounts(place.planned(engine, SSH_DIR=str(keys)))["/tmp/.ssh"] == (str(keys), True)


def test_the_first_engine_that_works_is_taken(place: Place) -> None:
    assert shlex.split(place.run("--dry-run", *place.folders).stdout)[0] == "docker"
    place.engine("docker", "exit 1")
    assert shlex.split(place.run("--dry-run", *place.folders).stdout)[0] == "podman"


def test_the_image_tells_which_engine_fits(place: Place) -> None:
    (place.root / "c.sif").write_text("")
    assert "apptainer" in place.run("--dry-run", *place.folders, IMAGE=str(place.root / "c.sif")).stdout
    assert "'ch-run'" in place.run("--dry-run", *place.folders, IMAGE=str(place.root / "image")).stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("launch_container: ")
    return done.stderr


@pytest.mark.parametrize("index", range(4))
def test_a_missing_folder_is_named(index: int, place: Place) -> None:
    folders = place.folders
    folders[index] += "x"
    name = ("TXT_DB", "IMG_DB", "OUTPUT", "PRETRAIN")[index]
    assert f"{name}: there is no folder {folders[index]}" in refused(place.run(*folders, ENGINE="docker"))


MISREAD = [("docker", "a,b"), ("podman", "a,b"), ("apptainer", "a:b"), ("ch-run", "a:b")]


@pytest.mark.parametrize(("engine", "name"), MISREAD)
def test_a_folder_that_an_engine_would_misread_is_refused(engine: str, name: str, place: Place) -> None:
    (place.root / name).mkdir()
    folders = [str(place.root / name), *place.folders[1:]]
    assert name in refused(place.run(*folders, ENGINE=engine, IMAGE=str(place.root / "image")))


def test_too_few_folders_and_unknown_options_are_refused(place: Place) -> None:
    assert "TXT_DB IMG_DB OUTPUT PRETRAIN" in refused(place.run(*place.folders[:3]))
    assert "--dryrun" in refused(place.run("--dryrun", *place.folders))


def test_missing_engines_are_told(place: Place) -> None:
    assert "ENGINE=lxc is none of docker, podman" in refused(place.run(*place.folders, ENGINE="lxc"))
    (place.root / "bin/podman").unlink()
    assert "ENGINE=podman is not on the PATH" in refused(place.run(*place.folders, ENGINE="podman"))
    for name in ("docker", "apptainer", "singularity"):
        (place.root / "bin" / name).unlink()
    assert "works here; install one" in refused(place.run(*place.folders))


@pytest.mark.parametrize("engine", ["apptainer", "ch-run"])
def test_a_missing_image_is_told(engine: str, place: Place) -> None:
    assert "nowhere" in refused(place.run(*place.folders, ENGINE=engine, IMAGE=str(place.root / "nowhere")))
    if engine == "ch-run":
        assert "needs IMAGE=" in refused(place.run(*place.folders, ENGINE=engine))


def test_help_names_every_engine_and_variable(place: Place) -> None:
    done = place.run("--help")
    assert done.returncode == 0
    for word in (*ENGINES, "ENGINE", "IMAGE", "CUDA_VISIBLE_DEVICES", "PASS", "SSH_DIR", "--dry-run"):
        assert word in done.stdout
