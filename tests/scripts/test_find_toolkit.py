"""scripts/find_toolkit.sh: the first toolkit of the right version, or none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

PATH = ":".join(one for one in os.environ["PATH"].split(":") if not Path(one, "nvcc").exists())
"""Where programs are, but no compiler for GPUs."""


def toolkit(folder: Path, release: str) -> Path:
    """A folder with an nvcc that tells this release."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
    nvcc.chmod(0o755)
    return folder


def find(version: str, **variables: str | Path) -> tuple[int, str]:
    environ = {"PATH": PATH, "CUDA_PREFIX": "/nowhere"} | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(["bash", "scripts/find_toolkit.sh", version], cwd=ROOT, env=environ, capture_output=True,
                          text=True, check=False)  # fmt: skip
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("name", ["HOROVOD_CUDA_HOME", "CUDA_HOME"])
def test_the_one_that_is_named_is_taken(name: str, tmp_path: Path) -> None:
    assert find("13.0", **{name: toolkit(tmp_path / "t", "13.1")}) == (0, str(tmp_path / "t"))


def test_one_of_another_version_is_passed_over(tmp_path: Path) -> None:
    old, new = toolkit(tmp_path / "old", "12.8"), toolkit(tmp_path / "new", "13.0")
    assert find("13.0", HOROVOD_CUDA_HOME=old, CUDA_HOME=new) == (0, str(new))
    assert find("13.0", HOROVOD_CUDA_HOME=old)[0] == 1


def test_the_nvcc_on_the_path_tells_its_folder(tmp_path: Path) -> None:
    found = toolkit(tmp_path / "conda", "13.0")
    assert find("13.0", PATH=f"{found / 'bin'}:{PATH}") == (0, str(found))


def test_the_usual_place_is_looked_at(tmp_path: Path) -> None:
    toolkit(tmp_path / "cuda", "12.8")
    assert find("13.0", CUDA_PREFIX=tmp_path)[0] == 1
    found = toolkit(tmp_path / "cuda-13.0", "13.0")
    assert find("13.0", CUDA_PREFIX=tmp_path) == (0, str(found))


def test_a_folder_without_a_compiler_is_none(tmp_path: Path) -> None:
    assert find("13.0", CUDA_HOME=tmp_path) == (1, "")
