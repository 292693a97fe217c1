"""Each miniature configuration through the real commands: drawn, trained, killed, resumed, evaluated, counted again.

One of each program is trained as a user would, by horovodrun; the others, and all that is asked of them afterwards,
run in tests.flow.warm.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest

from config import load
from scripts.command.training_program import training_program
from scripts.make_scenes import main as make_scenes
from tests.flow import warm
from tests.flow.shared import once
from tests.processes import entry, started, steps_logged, wait_until, with_patience
from tests.support import ROOT, events, run
from train.assembly.kinds import KINDS

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
BY_LAUNCHER = ("smoke-uniter.json", "smoke-vsrn.json")
"""Those that a launcher starts, and that are killed with it."""
CONFIGS = sorted(path.name for path in (ROOT / "config").glob("smoke-*.json"))


@pytest.fixture(scope="module", autouse=True)
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small drawn set and candidates mined over it, where the configurations look for them: from where they run."""
    folder = once(tmp_path_factory, "drawn", drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENES", os.path.relpath(folder / "scenes", ROOT))
        patch.setenv("OFFLINE", os.path.relpath(folder / "round_one" / "offline", ROOT))
        yield folder / "scenes"


def drawn(folder: Path) -> None:
    """`scenes`, and in `round_one/offline` the candidates of a VSRN that was trained for a moment."""
    words = ["--output", str(folder / "scenes"), "--train", "60", "--val", "16", "--test", "20", "--workers", "1"]
    assert make_scenes(words) == 0
    first = ["--config", ROOT / "config" / "smoke-vsrn.json", "--output_dir", folder / "round_one",
             "--num_train_steps", "2", "--decay_steps", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENES", str(folder / "scenes"))
        for command in (["train/itm.py", *first], ["train/mine.py", folder / "round_one", *NARROW]):
            done = warm.run(*command)
            assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Path:
    return ROOT / "config" / request.param


@pytest.fixture(scope="module")
def program(config: Path) -> str:
    """The entry that trains the configuration."""
    return training_program(load(config, {}, KINDS))


@pytest.fixture(scope="module")
def trained(config: Path, program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of two ranks that was killed on the way and started again; to be left as it is."""
    return once(tmp_path_factory, config.stem, lambda folder: killed_and_resumed(config, program, folder)) / "out"


@contextmanager
def group(words: tuple[str | Path, ...], folder: Path, config: str) -> Iterator[Sequence[Popen[bytes] | warm.Program]]:
    """Two ranks at work: of horovodrun for one configuration of each program, else of tests.flow.warm."""
    if config in BY_LAUNCHER:
        with started(entry(*words, ranks=2), folder / "log") as launcher:
            yield [launcher]
    else:
        with warm.group(words, folder, ranks=2) as programs:
            yield programs


def killed_and_resumed(config: Path, program: str, folder: Path) -> None:
    """Train `folder/out`: two ranks are killed on the way, the run goes on by the command that a user gives."""
    out = folder / "out"
    words = program, "--config", config, "--output_dir", out, "--save_steps", "4"
    with group(words, folder, config.name) as processes:
        wait_until(lambda: any(process.poll() is not None for process in processes) or steps_logged(out) >= 7)
        assert all(process.poll() is None for process in processes), said(folder)
        family = [psutil.Process(process.pid) for process in processes]
        for member in [*family, *(child for parent in family for child in parent.children(recursive=True))]:
            with_patience(member.kill)
    again = run if config.name in BY_LAUNCHER else warm.run
    done = again(*words, ranks=2)
    assert done.returncode == 0, done.stderr
    first, second = (event["step"] for event in events(out, "start"))
    assert first == 0
    assert second >= 4
    assert "image to text" in done.stdout


def said(folder: Path) -> str:
    """The last words of a run that ended by itself."""
    return "".join(path.read_text()[-2000:] for path in folder.iterdir() if path.is_file())


def matcher_of(config: Path) -> str:
    return load(config, {}, KINDS).matcher.name


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def test_there_is_a_miniature_of_each_system() -> None:
    assert {matcher_of(ROOT / "config" / name) for name in CONFIGS} == {"uniter", "vsrn", "bfan", "laps"}


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    there = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "log.txt", "ckpt", "scores", "results.json"} <= there
    assert not [path for path in trained.rglob("*") if "partial" in path.name]
    total = json.loads((trained / "config.json").read_text())["optim"]["num_train_steps"]
    assert {event["step"] for event in events(trained, "train")} == set(range(1, total + 1))
    for event in events(trained, "train"):
        assert event["loss"] > 0 or event.get("ramp") == 0, "only a loss that rises begins with nothing"
        assert event["pairs_per_s"] > 0
    found = results(trained)["test"]
    assert found["images"] == 20
    assert found["texts"] == 100
    assert all(0 <= found["recalls"][f"{side}_r{k}"] <= 1 for side in ("txt", "img") for k in (1, 5, 10))


@pytest.mark.parametrize("ranks", [1, 2])
def test_evaluating_again_gives_the_same_numbers(ranks: int, config: Path, trained: Path, tmp_path: Path) -> None:
    before = results(trained)["test"]["recalls"]
    again, best = tmp_path / "again", trained / "ckpt" / "best"
    done = warm.run("train/evaluate.py", "--config", config, "--output_dir", again, "--which", best, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert results(again)["test"]["recalls"] == before
    ours, theirs = ((folder / "scores/test/matrix.npy").read_bytes() for folder in (again, trained))
    assert ours == theirs


def test_a_split_is_added_to_the_results(config: Path, program: str, trained: Path, tmp_path: Path) -> None:
    out, before = Path(shutil.copytree(trained, tmp_path / "out", symlinks=True)), results(trained)
    done = warm.run("train/evaluate.py", "--config", config, "--output_dir", out, "--split", "val")
    assert done.returncode == 0, done.stderr
    assert results(out)["val"]["images"] == 16
    assert results(out)["test"] == before["test"]
    done = warm.run(program, "--config", config, "--output_dir", out, "--save_steps", "4", ranks=2)
    assert done.returncode == 0, done.stderr
    assert results(out).keys() == {"val", "test"}, "a finished run called again harms no entry"


@pytest.mark.parametrize("config", ["smoke-iais.json"], indirect=True)
def test_isda_of_annotated_scenes(trained: Path, scenes: Path, tmp_path: Path) -> None:
    """The drawn captions name objects; with their true boxes as regions the relations among them are compared."""
    whitener = next((scenes / "img_db" / "train").glob("*/whitener.npz"))
    words = ["--captions", scenes / "captions.jsonl", "--split", "test", "--annotated_boxes", "--keep_all"]
    done = warm.run("scripts/build_imgdb.py", "jpeg", scenes / "pictures", *words, "--whitener", whitener,
                    "--workers", "1", "--output", tmp_path / "boxes")
    assert done.returncode == 0, done.stderr
    measure = ["train/evaluate.py", "--config", trained / "config.json", "--which", trained / "ckpt" / "best", "--isda"]
    found = []
    for ranks in (1, 2):
        out = tmp_path / f"ranks-{ranks}"
        done = warm.run(*measure, "--test_img_db", tmp_path / "boxes", "--output_dir", out, ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert "ISDa " in done.stdout
        found.append(results(out)["isda-test"])
    assert found[0].pop("mean") == pytest.approx(found[1].pop("mean"), rel=1e-4)
    assert found[0]["pairs"] == found[1]["pairs"] > 50
    done = warm.run(*measure, "--output_dir", tmp_path / "detected")
    assert done.returncode == 3
    assert "build the image store from the annotated boxes" in done.stderr.splitlines()[-1]


def test_a_score_file_is_counted_again_with_other_options(config: Path, trained: Path, tmp_path: Path) -> None:
    for ties in ("pessimistic", "optimistic"):
        done = warm.run("train/evaluate.py", "--config", config, "--output_dir", tmp_path, "--scores",
                        trained / "scores" / "test", "--ties", ties)
        assert done.returncode == 0, done.stderr
        found = results(tmp_path)["test"]
        assert found["ties"] == ties
        if ties == "pessimistic":
            assert found["recalls"] == results(trained)["test"]["recalls"]


@pytest.mark.parametrize("config", ["smoke-uniter.json"], indirect=True)
def test_a_killed_evaluation_goes_on_where_it_was(config: Path, trained: Path, tmp_path: Path) -> None:
    """Of a joint head: the stripes of the others are over before anyone could kill them."""
    words = ["train/evaluate.py", "--config", config, "--which", trained / "ckpt" / "best", "--tokens_per_block", "300"]
    parts = tmp_path / "cut" / "scores" / "test" / "parts"
    with warm.started((*words, "--output_dir", tmp_path / "cut"), tmp_path / "log") as process:
        wait_until(lambda: len(list(parts.rglob("*.npy"))) >= 5)
        process.kill()
        process.wait(10)
    kept = {path: path.stat().st_mtime_ns for path in parts.rglob("*.npy")}
    assert kept
    assert not (tmp_path / "cut" / "results.json").exists()
    for folder in ("cut", "whole"):
        done = warm.run(*words, "--output_dir", tmp_path / folder)
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
    done = warm.run(*words, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("ready: ")


@pytest.mark.parametrize("entry_point", PROGRAMS)
def test_the_commands_explain_themselves(entry_point: str) -> None:
    shown = warm.run(entry_point, "--config", PROGRAMS[entry_point], "--print-config", "--tokens_per_block", "999")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["eval"]["tokens_per_block"] == 999
    for flag in ("--help", "--version"):
        assert warm.run(entry_point, flag).returncode == 0


def test_an_evaluation_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    done = warm.run("train/evaluate.py", "--config", PROGRAMS["train/evaluate.py"], "--output_dir", tmp_path / "out")
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
