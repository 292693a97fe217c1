"""Each miniature configuration through the real commands: drawn, trained, killed, resumed, evaluated, counted again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from config import load
from scripts._training import training_program
from tests.processes import entry, started, steps_logged, wait_until
from tests.support import ROOT, events, run
from train.entry import KINDS

pytestmark = pytest.mark.slow
NARROW = ["--texts_per_image", "25", "--images_per_text", "5"]
"""As many candidates as the miniature draws from."""
PROGRAMS = {
    "train/itm_hn.py": ROOT / "config" / "smoke-uniter.json",
    "train/itm.py": ROOT / "config" / "smoke-vsrn.json",
    "train/mine.py": ROOT / "config" / "smoke-vsrn.json",
    "train/evaluate.py": ROOT / "config" / "smoke-uniter.json",
}
"""Every entry, with a configuration that it takes."""
CONFIGS = sorted(path.name for path in (ROOT / "config").glob("smoke-*.json"))


@pytest.fixture(scope="module", autouse=True)
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small drawn set and candidates mined over it, where the configurations look for them."""
    folder = tmp_path_factory.mktemp("drawn") / "scenes"
    done = run("scripts/make_scenes.py", "--output", folder, "--train", "60", "--val", "16", "--test", "20")
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENES", str(folder))
        patch.setenv("OFFLINE", str(mined(folder.parent / "round_one")))
        yield folder


def mined(folder: Path) -> Path:
    """The candidates of a VSRN that was trained for a moment."""
    first = ["--config", ROOT / "config" / "smoke-vsrn.json", "--output_dir", folder]
    for words in (["train/itm.py", *first, "--num_train_steps", "2", "--decay_steps", "2"],
                  ["train/mine.py", *first, "--num_train_steps", "2", "--decay_steps", "2", *NARROW]):
        done = run(*words)
        assert done.returncode == 0, done.stderr
    return folder / "offline"


@pytest.fixture(scope="module", params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Path:
    return ROOT / "config" / request.param


@pytest.fixture(scope="module")
def program(config: Path) -> str:
    """The entry that trains the configuration."""
    return training_program(load(config, {}, KINDS))


@pytest.fixture(scope="module")
def trained(config: Path, program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of two ranks that was killed on the way and started again."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    words = entry(program, "--config", config, "--output_dir", folder, "--save_steps", "4", ranks=2)
    with started(words, folder.parent / "log") as process:
        wait_until(lambda: steps_logged(folder) >= 7)
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            if member.is_running():
                member.send_signal(signal.SIGKILL)
    done = run(program, "--config", config, "--output_dir", folder, "--save_steps", "4", ranks=2)
    assert done.returncode == 0, done.stderr
    first, second = (event["step"] for event in events(folder, "start"))
    assert first == 0
    assert second >= 4
    assert "image to text" in done.stdout
    return folder


def matcher_of(config: Path) -> str:
    return load(config, {}, KINDS).matcher.name


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def test_there_is_a_miniature_of_each_system() -> None:
    assert {matcher_of(ROOT / "config" / name) for name in CONFIGS} == {"uniter", "vsrn", "bfan"}


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    there = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "log.txt", "ckpt", "scores", "results.json"} <= there
    assert not [path for path in trained.rglob("*") if "partial" in path.name]
    total = json.loads((trained / "config.json").read_text())["optim"]["num_train_steps"]
    assert {event["step"] for event in events(trained, "train")} == set(range(1, total + 1))
    assert all(event["loss"] > 0 and event["pairs_per_s"] > 0 for event in events(trained, "train"))
    found = results(trained)["test"]
    assert found["images"] == 20
    assert found["texts"] == 100
    assert all(0 <= found["recalls"][f"{side}_r{k}"] <= 1 for side in ("txt", "img") for k in (1, 5, 10))


@pytest.mark.parametrize("ranks", [1, 2])
def test_evaluating_again_gives_the_same_numbers(ranks: int, config: Path, trained: Path, tmp_path: Path) -> None:
    before = results(trained)["test"]["recalls"]
    again = tmp_path / "again"
    done = run("train/evaluate.py", "--config", config, "--output_dir", again, "--which", trained / "ckpt" / "best",
               ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert results(again)["test"]["recalls"] == before
    ours, theirs = ((folder / "scores/test/matrix.npy").read_bytes() for folder in (again, trained))
    assert ours == theirs


def test_a_split_is_added_to_the_results(config: Path, program: str, trained: Path) -> None:
    before = results(trained)
    done = run("train/evaluate.py", "--config", config, "--output_dir", trained, "--split", "val")
    assert done.returncode == 0, done.stderr
    assert results(trained)["val"]["images"] == 16
    assert results(trained)["test"] == before["test"]
    done = run(program, "--config", config, "--output_dir", trained, "--save_steps", "4", ranks=2)
    assert done.returncode == 0, done.stderr
    assert results(trained).keys() == {"val", "test"}, "a finished run called again harms no entry"


def test_isda_of_annotated_scenes(trained: Path, scenes: Path, tmp_path: Path) -> None:
    """The drawn captions name objects; with their true boxes as regions the relations among them are compared."""
    if matcher_of(trained / "config.json") != "uniter":
        pytest.skip("this matcher offers no attention")
    whitener = next((scenes / "img_db" / "train").glob("*/whitener.npz"))
    words = ["--captions", scenes / "captions.jsonl", "--split", "test", "--annotated_boxes", "--keep_all"]
    done = run("scripts/build_imgdb.py", "jpeg", scenes / "pictures", *words, "--whitener", whitener,
               "--output", tmp_path / "boxes")
    assert done.returncode == 0, done.stderr
    measure = ["train/evaluate.py", "--config", trained / "config.json", "--which", trained / "ckpt" / "best", "--isda"]
    found = []
    for ranks in (1, 2):
        out = tmp_path / f"ranks-{ranks}"
        done = run(*measure, "--test_img_db", tmp_path / "boxes", "--output_dir", out, ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert "ISDa " in done.stdout
        found.append(results(out)["isda-test"])
    assert found[0].pop("mean") == pytest.approx(found[1].pop("mean"), rel=1e-4)
    assert found[0]["pairs"] == found[1]["pairs"] > 50
    done = run(*measure, "--output_dir", tmp_path / "detected")
    assert done.returncode == 3
    assert "build the image store from the annotated boxes" in done.stderr.splitlines()[-1]


def test_a_score_file_is_counted_again_with_other_options(config: Path, trained: Path, tmp_path: Path) -> None:
    for ties in ("pessimistic", "optimistic"):
        done = run("train/evaluate.py", "--config", config, "--output_dir", tmp_path, "--scores",
                   trained / "scores" / "test", "--ties", ties)
        assert done.returncode == 0, done.stderr
        found = results(tmp_path)["test"]
        assert found["ties"] == ties
        if ties == "pessimistic":
            assert found["recalls"] == results(trained)["test"]["recalls"]


def test_a_killed_evaluation_goes_on_where_it_was(config: Path, trained: Path, tmp_path: Path) -> None:
    if matcher_of(config) != "uniter":
        pytest.skip("this matcher's stripes are over before anyone could kill it")
    words = ["train/evaluate.py", "--config", config, "--which", trained / "ckpt" / "best", "--tokens_per_block", "300"]
    parts = tmp_path / "cut" / "scores" / "test" / "parts"
    with started(entry(*words, "--output_dir", tmp_path / "cut"), tmp_path / "log") as process:
        wait_until(lambda: len(list(parts.rglob("*.npy"))) >= 5)
        process.kill()
        process.wait(10)
    kept = {path: path.stat().st_mtime_ns for path in parts.rglob("*.npy")}
    assert kept
    assert not (tmp_path / "cut" / "results.json").exists()
    for folder in ("cut", "whole"):
        done = run(*words, "--output_dir", tmp_path / folder)
        assert done.returncode == 0, done.stderr
    cut, whole = ((tmp_path / folder / "scores/test/matrix.npy").read_bytes() for folder in ("cut", "whole"))
    assert cut == whole
    assert not parts.exists()


def test_a_dry_run_builds_everything_and_writes_nothing(
    program: str, config: Path, trained: Path, tmp_path: Path
) -> None:
    for words in ([program], ["train/evaluate.py", "--which", trained / "ckpt" / "best"]):
        tried(*words, "--config", config, "--output_dir", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def tried(*words: str | Path) -> None:
    """A dry run that says it is ready, and nothing else."""
    done = run(*words, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("ready: ")


@pytest.mark.parametrize("entry_point", PROGRAMS)
def test_the_commands_explain_themselves(entry_point: str) -> None:
    shown = run(entry_point, "--config", PROGRAMS[entry_point], "--print-config", "--learning_rate", "2e-5")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["optim"]["learning_rate"] == 2e-5
    for flag in ("--help", "--version"):
        assert run(entry_point, flag).returncode == 0


def test_an_evaluation_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    done = run("train/evaluate.py", "--config", PROGRAMS["train/evaluate.py"], "--output_dir", tmp_path / "out")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "holds no checkpoint" in done.stderr
    assert not os.path.exists(tmp_path / "out")


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_entry_runs_from_any_folder(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own first lines put the project's root on the path."""
    monkeypatch.setattr("tests.support.ROOT", tmp_path)
    done = run(ROOT / program, "--version")
    assert done.returncode == 0, done.stderr
    assert Path(program).stem in done.stdout
