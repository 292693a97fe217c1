"""Golden cases of several ranks on real ones: processes under Horovod and under torch.distributed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import entry
from tests.support import ROOT, environment

CASE = Path(__file__).parent / "cases" / "laps" / "multi_rank_2"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["horovodrun", "torchrun"])
def test_the_loss_of_two_ranks_and_its_gradients(launcher: str, tmp_path: Path) -> None:
    words = entry("tests/golden/ops_laps_ranks.py", CASE, tmp_path, ranks=2, launcher=launcher)
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = load_file(CASE / "expected.safetensors")
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(found.pop("loss"), expected["loss"][rank], rtol=1e-3, atol=5e-5)
        assert {name for name in expected if name.startswith("grad.")} == found.keys()
        for name, grad in found.items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
