"""train/evaluate.py: kept scores counted again, and ensembles of several models."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from config.errors import ConfigError, DataError
from config.schema import Run
from data.batches.pairs import Array
from model.matcher import build
from tests.items import items_config
from tests.samples import lively
from tests.support import run as command
from tests.support import write_config
from tests.train.conftest import MakeRun, Pretended
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Comm, Solo
from train.evaluate import choose_checkpoint, work
from train.evaluation.results import format_recalls
from train.scoring.recall import fold_recalls, recalls
from train.scoring.scores import Scores, open_scores, write_scores

OWNER = np.arange(60) % 20


def scored(folder: Path, seed: int) -> Path:
    """A run's output folder whose test scores are half noise."""
    rng = np.random.default_rng(seed)
    matrix = (rng.standard_normal((20, 60)) + 2 * (np.arange(20)[:, None] == OWNER)).astype(np.float32)
    place = folder / "scores" / "test"
    place.mkdir(parents=True)
    write_scores(place, matrix, Scores(matrix, [f"i{n}" for n in range(20)], [*map(str, range(60))], OWNER), f"w{seed}")
    return folder


def evaluate(run: Run, *places: Path, dry_run: bool = False, comm: Comm | None = None) -> None:
    args = Namespace(scores=list(places), isda=False, split="test", which=None, dry_run=dry_run, said=frozenset())
    assert work(run, args, comm or Solo()) == 0


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [scored(tmp_path / name, seed) for seed, name in enumerate(("one", "two", "three"))]


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def run_into(make_run: MakeRun, out: Path, **options: Any) -> Run:
    return make_run(eval=options, output={"output_dir": str(out)})


def test_one_matrix_is_counted_where_it_lies(
    make_run: MakeRun, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = tmp_path / "out", runs[0] / "scores" / "test"
    for named in (place, runs[0]):
        evaluate(run_into(make_run, out, ties="index"), named)
        found = results(out)
        assert list(found) == ["test"]
        assert found["test"]["recalls"] == recalls(open_scores(place).matrix, OWNER, "index")
        assert found["test"]["scores"] == str(place)
        assert capsys.readouterr().out == format_recalls(found["test"])
    assert not (out / "scores").exists()


def test_an_ensemble_is_judged_by_the_mean_of_its_scores(
    make_run: MakeRun, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(run_into(make_run, out), *runs)
    each = [open_scores(folder / "scores" / "test").matrix for folder in runs]
    mean = sum(matrix.astype(np.float64) for matrix in each) / 3
    found = results(out)["test-ensemble"]
    assert found["recalls"] == recalls(mean, OWNER)
    assert found["recalls"]["rsum"] > max(recalls(matrix, OWNER)["rsum"] for matrix in each)
    assert found["ensemble"] == [str(folder / "scores" / "test") for folder in runs]
    assert "checkpoint" not in found
    np.testing.assert_array_equal(open_scores(out / "scores" / "test-ensemble").matrix, mean)
    assert capsys.readouterr().out == format_recalls(found)


def test_an_ensemble_beside_a_runs_own_result_harms_it_not(make_run: MakeRun, runs: list[Path]) -> None:
    evaluate(run_into(make_run, runs[0]), runs[0])
    before = results(runs[0])["test"]
    evaluate(run_into(make_run, runs[0]), runs[0], runs[1])
    assert results(runs[0]).keys() == {"test", "test-ensemble"}
    assert results(runs[0])["test"] == before


def test_folds_of_an_ensemble_are_told_one_by_one_and_whole(
    make_run: MakeRun, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(run_into(make_run, out, folds=5), *runs[:2])
    found, mean = results(out)["test-ensemble"], open_scores(out / "scores" / "test-ensemble").matrix
    assert found["each_fold"] == fold_recalls(mean, OWNER, folds=5)
    assert found["recalls"] == recalls(mean, OWNER, folds=5)
    assert found["whole"] == recalls(mean, OWNER)
    told = capsys.readouterr().out
    assert told.index("mean of 5 folds of 4 images") < told.index("all 20 images")


def test_what_cannot_be_averaged_or_found_is_refused(make_run: MakeRun, runs: list[Path], tmp_path: Path) -> None:
    run = run_into(make_run, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"names .*one/scores/test twice"):
        evaluate(run, runs[0], runs[1], runs[0] / "scores" / "test")
    with pytest.raises(DataError, match=r"nowhere: holds no matrix\.npy, nor does its scores/test; evaluate that run"):
        evaluate(run, runs[0], tmp_path / "nowhere")
    names = runs[1] / "scores" / "test" / "ids.json"
    content = json.loads(names.read_text())
    names.write_text(json.dumps(content | {"texts": content["texts"][::-1]}))
    with pytest.raises(DataError, match=r"ids\.json are not as they were written, some of it has changed"):
        evaluate(run, *runs)
    del content["crc32c"]
    names.write_text(json.dumps(content | {"texts": content["texts"][::-1]}))
    with pytest.raises(DataError, match="text 0 is 0 in the first and 59 in the second"):
        evaluate(run, *runs)
    assert not (tmp_path / "out").exists()


def test_candidates_of_two_stages_are_told_from_a_whole_matrix(
    make_run: MakeRun, runs: list[Path], tmp_path: Path
) -> None:
    """Named themselves or by their run's folder; beside a whole matrix of the split they are in nobody's way."""
    place, run = runs[0] / "scores" / "test", run_into(make_run, tmp_path / "out")
    whole = open_scores(place)
    stages = runs[0] / "scores" / "test-two-stage"
    stages.mkdir()
    write_scores(stages, np.array(whole.matrix), whole, "w", {"k": 3})
    evaluate(run, runs[0])
    assert results(tmp_path / "out")["test"]["scores"] == str(place)
    place.rename(tmp_path / "gone")
    for named in (stages, runs[0]):
        with pytest.raises(DataError, match=f"^{named}: holds the candidates of two stages and") as told:
            evaluate(run, named, runs[1])
        assert "\n" not in str(told.value)


def test_nothing_is_written_by_a_dry_run_or_another_rank(
    make_run: MakeRun, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(run_into(make_run, tmp_path / "out"), *runs, dry_run=True)
    assert capsys.readouterr().err == "ready: test-ensemble of 3 score matrices\n"
    evaluate(run_into(make_run, tmp_path / "out"), *runs, comm=Pretended(1, 2))
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


def test_an_ensemble_by_the_real_command(make_run: MakeRun, runs: list[Path], tmp_path: Path) -> None:
    config = write_config(tmp_path / "given.json", make_run().dump())
    words = ["train/evaluate.py", "--config", config, "--folds", "5", "--ties", "index", "--output_dir"]
    done = command(*words, tmp_path / "out", "--scores", *runs[:2])
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out")["test-ensemble"]
    assert done.stdout == format_recalls(found)
    assert found["ties"] == "index"
    done = command(*words, tmp_path / "other", "--scores", runs[0], tmp_path / "none")
    assert done.returncode == 3
    assert done.stderr == (f"evaluate: {tmp_path / 'none'}: holds no matrix.npy, nor does its scores/test; "
                           "evaluate that run on test first\n")


def test_two_stages_by_the_real_commands(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """Trained and measured in two stages, then measured on all pairs, in the same folder."""
    sections = {"optim": {"num_train_steps": 2}, "eval": {"valid_steps": 2, "two_stage": 4}}
    config, out = write_config(tmp_path / "given.json", items_config(stores, **sections)), tmp_path / "out"
    done = command("train/itm.py", "--config", config, "--output_dir", out)
    assert done.returncode == 0, done.stderr
    assert "val: two stages: of 24 images x 48 texts" in (out / "log.txt").read_text()
    first = results(out)
    assert first.keys() == {"test-two-stage"}

    words = ["train/evaluate.py", "--config", config, "--output_dir", out]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == format_recalls(results(out)["test-two-stage"])
    assert "% of the pairs scored, those among the 4 nearest" in done.stdout
    done = command(*words, "--two_stage", "0")
    assert done.returncode == 0, done.stderr
    found = results(out)
    assert found["test-two-stage"]["recalls"] == first["test-two-stage"]["recalls"]
    assert "two_stage" not in found["test"]
    assert open_scores(out / "scores" / "test").matrix.min() > -np.inf
    done = command(*words, "--scores", out / "scores" / "test-two-stage")
    assert done.returncode == 3
    told = "holds the candidates of two stages and no whole matrix; evaluate that run on test with --two_stage 0 first"
    assert done.stderr == f"evaluate: {out / 'scores' / 'test-two-stage'}: {told}\n"



def saved(folder: Path, *steps: int) -> Checkpoints:
    place = Checkpoints(folder, keep=9)
    for step in steps:
        place.write(Snapshot(step, {}, {}, {}))
    return place


def test_the_best_is_measured_or_else_the_newest_whole_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = saved(tmp_path, 10, 20, 30)
    assert choose_checkpoint("best", tmp_path, "").name == "step-00000030"
    place.mark_best(10)
    assert choose_checkpoint("best", tmp_path, "").name == "step-00000010"
    assert choose_checkpoint("latest", tmp_path, "").name == "step-00000030"
    assert capsys.readouterr().err == ""
    (tmp_path / "ckpt" / "step-00000030" / "state.pt").unlink()
    assert choose_checkpoint("latest", tmp_path, "").name == "step-00000020"
    assert capsys.readouterr().err.endswith("step-00000030: state.pt is missing; going on with step-00000020\n")


def test_a_best_that_is_no_link_is_not_passed_over(tmp_path: Path) -> None:
    """As after a copy that does not keep links: another checkpoint would be measured in its place."""
    saved(tmp_path, 10, 20).mark_best(10)
    link = tmp_path / "ckpt" / "best"
    link.unlink()
    for make in (link.touch, lambda: link.symlink_to("step-00000099")):
        make()
        with pytest.raises(DataError, match=r"ckpt/best: is no link to a checkpoint beside it; link it again, or name"):
            choose_checkpoint("best", tmp_path, "")
        link.unlink()
    assert choose_checkpoint("latest", tmp_path, "").name == "step-00000020"


def test_without_a_whole_one_nothing_is_measured(tmp_path: Path) -> None:
    for name in ("start.pt", "elsewhere.pt"):
        (tmp_path / name).touch()
    start = str(tmp_path / "start.pt")
    assert choose_checkpoint("best", tmp_path, start) == Path(start)
    assert choose_checkpoint(str(tmp_path / "elsewhere.pt"), tmp_path, start) == tmp_path / "elsewhere.pt"
    for name in ("which", "checkpoint"):
        with pytest.raises(DataError, match=rf"{name}=gone\.pt: no such checkpoint; name a checkpoint folder"):
            choose_checkpoint("gone.pt" if name == "which" else "best", tmp_path, "gone.pt")
    with pytest.raises(DataError, match="holds no checkpoint; name one with --which PATH"):
        choose_checkpoint("best", tmp_path, "")
    assert choose_checkpoint("best", tmp_path, start, is_said=True) == Path(start)
    saved(tmp_path, 10)
    (tmp_path / "ckpt" / "step-00000010" / "complete.json").unlink()
    with pytest.raises(DataError, match=r"step-00000010: complete\.json is missing; none is whole: name other weights"):
        choose_checkpoint("best", tmp_path, "start.pt")


def test_start_weights_that_would_be_passed_over_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    for which, told in (("best", "holds checkpoints of its own, which go"), ("latest", "name these with --which"),
                        ("x.pt", r"--which x\.pt both name weights; leave --checkpoint out")):
        with pytest.raises(ConfigError, match=told):
            choose_checkpoint(which, tmp_path, "start.pt", is_said=True)
    assert choose_checkpoint("best", tmp_path, "start.pt").name == "step-00000010"


def test_kept_scores_name_no_checkpoint(make_run: MakeRun, tmp_path: Path) -> None:
    args = Namespace(scores=[tmp_path], isda=False, split="test", which="best", dry_run=False, said=frozenset())
    with pytest.raises(ConfigError, match="--scores and --which exclude each other"):
        work(make_run(output={"output_dir": str(tmp_path)}), args, Solo())


# ---------------------------------------------------------------- the rank head


def matrix_of(make_run: MakeRun, weights: Path, out: Path, init: str, said: bool) -> Array:
    """The scores that weights are found to have."""
    run = make_run(weights={"rank_head_init": init}, output={"output_dir": str(out)})
    flags = frozenset({"weights.rank_head_init"}) if said else frozenset[str]()
    args = Namespace(scores=[], isda=False, split="test", which=str(weights), dry_run=False, said=flags)
    assert work(run, args, Solo()) == 0
    return np.load(out / "scores" / "test" / "matrix.npy")


def test_a_published_evaluation_of_uniter_can_be_repeated(make_run: MakeRun, tmp_path: Path) -> None:
    """It always ranks by the matching head; what a run's config says of its start does not touch what it trained."""
    trained = lively(build(make_run().matcher)).state_dict()
    matching = trained | {f"rank.{part}": trained[f"match.{part}"][1:] for part in ("weight", "bias")}
    places = [tmp_path / f"{name}.safetensors" for name in ("trained", "matching")]
    for place, state in zip(places, (trained, matching), strict=True):
        save_file({name: tensor.clone() for name, tensor in state.items()}, place)
    ours, theirs = (matrix_of(make_run, place, tmp_path / place.stem, "if_missing", False) for place in places)
    assert not np.array_equal(ours, theirs)
    assert np.array_equal(matrix_of(make_run, places[0], tmp_path / "said", "always", True), theirs)
    assert np.array_equal(matrix_of(make_run, places[0], tmp_path / "config", "always", False), ours)
