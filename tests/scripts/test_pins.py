"""scripts/pins.py: the pinned packages of pyproject.toml, for what installs before the project does."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from tests.support import ROOT


def pins(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/pins.py", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_the_run_s_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pins().stdout.splitlines() == project["dependencies"]
    assert pins("build").stdout.splitlines() == project["optional-dependencies"]["build"]


def test_one_package_is_found_by_its_whole_name() -> None:
    line = pins("--only", "torch").stdout.strip()
    assert line.startswith("torch==")


def test_unknown_groups_and_packages_are_told() -> None:
    for words, told in ((("biuld",), "no group biuld"), (("--only", "tensorflow"), "pins no tensorflow")):
        done = pins(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_every_requirement_is_pinned_to_one_version() -> None:
    for group in ("", "build", "test"):
        assert all("==" in line for line in pins(*filter(None, [group])).stdout.splitlines())
