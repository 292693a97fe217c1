"""The runner: its lines, its exit code, what it writes, and that wrong numbers do not pass."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden.run import Case, compare, main

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "cases" / "uniter"


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A writable copy of a small case."""
    return shutil.copytree(CASES / "box_feature_a", tmp_path / "box_feature_a")


def test_a_right_case_is_ok(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(case)]) == 0
    assert capsys.readouterr().out == "uniter box_feature_a box_feature 0 ok\n"


def test_a_wrong_number_fails_and_is_named(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load_file(case / "expected.safetensors")
    expected["img_pos_feat"][3, 2] += 0.1
    save_file(expected, case / "expected.safetensors")
    assert main([str(CASES / "num_bb_a"), str(case)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" ok")
    assert second.endswith("FAIL img_pos_feat")


def test_an_unknown_op_fails(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((case / "case.json").read_text())
    (case / "case.json").write_text(json.dumps({**content, "op": "guess"}))
    assert main([str(case)]) == 1
    assert "FAIL unknown op" in capsys.readouterr().out


def test_a_case_that_raises_fails_and_the_others_still_run(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (case / "inputs.safetensors").unlink()
    assert main([str(case), str(CASES / "num_bb_a")]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "FAIL KeyError" in first
    assert second.endswith(" ok")


def test_without_expected_numbers_it_computes_and_writes(case: Path, tmp_path: Path) -> None:
    expected = load_file(case / "expected.safetensors")
    (case / "expected.safetensors").unlink()
    assert main([str(case), "--out", str(tmp_path / "out")]) == 0
    written = load_file(tmp_path / "out" / "uniter" / "box_feature_a.safetensors")
    assert written.keys() >= expected.keys()
    assert all(torch.allclose(written[name], expected[name], 2e-3, 1e-3) for name in expected)


def test_text_records_are_written_too(tmp_path: Path) -> None:
    assert main([str(CASES / "store_texts"), "--out", str(tmp_path)]) == 0
    records = json.loads((tmp_path / "uniter" / "store_texts.json").read_text())
    assert records == json.loads((CASES / "store_texts" / "expected.json").read_text())


def test_as_a_module(case: Path) -> None:
    command = [sys.executable, "-m", "tests.golden.run", str(case)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "uniter box_feature_a box_feature 0 ok\n")


# ---------------------------------------------------------------- comparing

GOOD = {"x": torch.tensor([1.0, 2.0]), "n": torch.tensor([1, 2])}


def verdict(tmp_path: Path, got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> tuple[float, str]:
    save_file(expected, tmp_path / "expected.safetensors")
    found = compare(Case(tmp_path, "uniter", "op", {}, {"rtol": 0.1, "atol": 0.0}, {}, {}), got, None)
    assert found is not None
    return found.worst, found.name


def test_the_worst_error_is_a_share_of_the_tolerance(tmp_path: Path) -> None:
    worst, name = verdict(tmp_path, {**GOOD, "x": torch.tensor([1.0, 2.1])}, GOOD)
    assert worst == pytest.approx(0.5, rel=1e-5)
    assert name == "x"


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": torch.tensor([1.0, 2.3])},
        {"x": torch.tensor([1.0, math.nan])},
        {"x": torch.tensor([1.0])},
        {"x": torch.tensor([1, 2])},
        {"n": torch.tensor([1, 3])},
        {"n": torch.tensor([1.0, 2.0])},
    ],
)
def test_what_is_not_as_expected_fails(tmp_path: Path, wrong: dict[str, torch.Tensor]) -> None:
    worst, name = verdict(tmp_path, {**GOOD, **wrong}, GOOD)
    assert not worst <= 1
    assert name == next(iter(wrong))


def test_a_missing_output_fails(tmp_path: Path) -> None:
    assert verdict(tmp_path, {"n": GOOD["n"]}, GOOD) == (math.inf, "x")


def test_further_outputs_are_ignored(tmp_path: Path) -> None:
    assert verdict(tmp_path, {**GOOD, "more": torch.zeros(3)}, GOOD)[0] == 0
