"""The demo and the published experiments as shell files: each in miniature, from the stores to its last table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.make_scenes import main as make_scenes
from tests.support import ROOT, environment, events

pytestmark = pytest.mark.slow
RUNS = ("vsrn", "aoq-vsrn", "aoq-vsrn-2", "aoq-bfan-equal", "aoq-bfan-prob")
FLAGS = "--num_train_steps 4 --valid_steps 2 --embed_size 16 --word_dim 8"


def recipe(folder: Path, scenes: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    """scripts/recipes/aoq.sh with this interpreter's programs."""
    settings = {"SCENES": str(scenes), "FLAGS": FLAGS, "NP": str(ranks), "BIN": str(Path(sys.executable).parent)}
    return subprocess.run(["bash", "scripts/recipes/aoq.sh", str(folder)], cwd=ROOT, env=environment() | settings,
                          capture_output=True, text=True, timeout=900, check=False)


def test_the_demo_from_the_scenes_to_the_report(tmp_path: Path) -> None:
    """Its folder is named from the project's, as by default."""
    folder = Path(os.path.relpath(tmp_path / "demo", ROOT))
    settings = {"COUNTS": "--train 60 --val 16 --test 20 --workers 1", "BIN": str(Path(sys.executable).parent),
                "FLAGS": "--num_train_steps 4 --warmup_steps 1 --valid_steps 2"}
    done = subprocess.run(["bash", "scripts/demo.sh", str(folder)], cwd=ROOT, env=environment() | settings,
                          capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert events(tmp_path / "demo/run", "start")[0]["world"] == 2
    found = json.loads((tmp_path / "demo/run/results.json").read_text())["test"]
    assert found["images"] == 20
    assert f"{found['recalls']['rsum']:.1f}" in (tmp_path / "demo/run/report.html").read_text()
    assert done.stdout.count("rsum") >= 2, "of the training's end and of the evaluation"


def test_aoq_from_the_stores_to_the_ensembles(tmp_path: Path) -> None:
    """On one rank; started again, it trains nothing anew."""
    scenes, out = tmp_path / "scenes", tmp_path / "out"
    counts = ["--train", "80", "--val", "16", "--test", "20"]
    assert make_scenes(["--output", str(scenes), *counts, "--workers", "1"]) == 0
    done = recipe(out, scenes, 1)
    assert done.returncode == 0, done.stderr
    for name in RUNS:
        assert [event["step"] for event in events(out / name, "start")] == [0]
        assert events(out / name, "start")[0]["world"] == 1
        assert json.loads((out / name / "config.json").read_text())["optim"]["train_batch_size"] == 32
    assert {"offline_kin", "weight_i"} <= events(out / "aoq-bfan-prob", "train")[-1].keys()
    mean = sum(matrix(out / name / "scores" / "test") for name in ("aoq-bfan-equal", "aoq-bfan-prob")) / 2
    np.testing.assert_allclose(matrix(out / "ensemble-bfan" / "scores" / "test-ensemble"), mean, rtol=1e-6)
    assert json.loads((out / "ensemble-vsrn" / "results.json").read_text())["test-ensemble"]["texts"] == 100
    assert done.stdout.count("rsum") >= len(RUNS) + 2

    before = {path: path.read_bytes() for path in out.glob("*/ckpt/best/model.safetensors")}
    assert len(before) >= len(RUNS)
    again = recipe(out, scenes, 1)
    assert again.returncode == 0, again.stderr
    assert all(path.read_bytes() == content for path, content in before.items())
    assert all(len(events(out / name, "train")) == len({e["step"] for e in events(out / name, "train")})
               for name in RUNS), "no update was done twice"


def matrix(folder: Path) -> np.ndarray:
    return np.asarray(np.load(folder / "matrix.npy", allow_pickle=False), np.float64)


def test_it_is_made_to_be_started_and_stops_at_the_first_failure(tmp_path: Path) -> None:
    assert os.access(ROOT / "scripts" / "recipes" / "aoq.sh", os.X_OK)
    done = recipe(tmp_path / "out", tmp_path, 1)
    assert done.returncode == 3
    assert "there is no text store" in done.stderr
    assert not (tmp_path / "out").exists()
