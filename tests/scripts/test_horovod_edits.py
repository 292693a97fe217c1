"""scripts/horovod_edits.py: each edit is made, or the wrong Horovod is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import horovod_edits
from scripts.horovod_edits import EDITS
from tests.processes import entry
from tests.support import ROOT, environment

TOO_LARGE_A_BUFFER = """
import os
os.environ["HOROVOD_FUSION_THRESHOLD"] = str(10**15)
import horovod.torch as hvd, torch
hvd.init()
for handle in [hvd.allreduce_async(torch.ones(1000), name=str(number)) for number in range(50)]:
    hvd.synchronize(handle)
"""


def unpacked(folder: Path) -> Path:
    """The places that are edited, without the rest of Horovod."""
    for name in {name for name, _, _ in EDITS}:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before\n" + "\n".join(old for edited, old, _ in EDITS if edited == name) + "\nafter\n")
    return folder


def test_every_place_is_edited_and_nothing_else(tmp_path: Path) -> None:
    horovod_edits.main(unpacked(tmp_path))
    for name, _, new in EDITS:
        text = (tmp_path / name).read_text()
        assert new in text
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")


def test_the_thread_is_the_one_that_is_guarded(tmp_path: Path) -> None:
    horovod_edits.main(unpacked(tmp_path))
    text = (tmp_path / "horovod/common/operations.cc").read_text()
    assert text.count("BackgroundThreadLoopOrFailure") == 2
    assert text.index("void BackgroundThreadLoopOrFailure") < text.index("std::thread(BackgroundThreadLoopOrFailure,")


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_another_horovod_is_refused(number: int, tmp_path: Path) -> None:
    name, old, _ = EDITS[number]
    path = unpacked(tmp_path) / name
    path.write_text(path.read_text().replace(old, "something else"))
    with pytest.raises(ValueError, match=f"{name}: holds no .* is this Horovod 0.28.1"):
        horovod_edits.main(tmp_path)


@pytest.mark.slow
def test_an_error_in_the_background_thread_ends_the_rank(tmp_path: Path) -> None:
    """Unedited, the rank waits for ever."""
    (tmp_path / "program.py").write_text(TOO_LARGE_A_BUFFER)
    done = subprocess.run(entry(str(tmp_path / "program.py"), ranks=2), cwd=ROOT, env=environment(),
                          capture_output=True, text=True, timeout=100, check=False)  # fmt: skip
    assert done.returncode != 0
    assert "horovod: its background thread failed: [enforce fail at" in done.stdout + done.stderr
