"""report.py on a made-up run: what the page says, and that it needs nothing but itself."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as Tree
from pathlib import Path

import numpy as np
import pytest

from config.errors import DataError
from config.sections import Eval
from data.stores.text_store import TextWriter
from scripts import report
from scripts.page.plot import plain
from train.evaluation.retrieval import compute_recalls
from train.metrics.journal import Journal
from train.scoring.recall import recalls
from train.scoring.scores import open_scores, write_ensemble, write_scores
from train.scoring.two_stage import shortlist_facts


@pytest.fixture
def write(read_page):
    """write(folder, *flags) makes the report and returns its page."""

    def make(folder, *flags):
        assert report.main([str(folder), *map(str, flags)]) == 0
        return read_page(folder / "report.html")

    return make


def test_the_page_is_whole_and_needs_nothing_else(make_run, tmp_path, write):
    folder = make_run()
    page = write(folder, "--pictures", tmp_path / "pictures", "--captions", tmp_path / "captions.jsonl")
    assert page.open == []
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in page.fetched)
    for forbidden in ("http://", "https://", "@import", "<script", "url("):
        assert forbidden not in page.source
    assert "prefers-color-scheme: dark" in page.source
    assert page.count("img", src="data:image/jpeg") >= 30
    for svg in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL):
        Tree.fromstring(svg)
    assert not list(folder.glob("*.partial"))


def test_isda_stands_below_the_recalls_where_it_was_measured(make_run, write, change):
    folder = make_run()
    assert "ISDa" not in write(folder).text
    entry = {"mean": 1.25, "low": 1.0, "high": 1.5, "pairs": 2500, "confidence": 0.95, "flat": 1.0,
             "checkpoint": "a/ckpt/step-800"}
    change(folder / "results.json", lambda content: content.update({"isda-test": entry}))
    assert "test, step-800: ISDa 1.2500 (95 % 1.0000 to 1.5000) over 2500 pairs" in write(folder).text
    change(folder / "results.json", lambda content: content["isda-test"].pop("flat"))
    with pytest.raises(DataError, match="the ISDa of 'test' lacks flat; evaluate again with --isda"):
        write(folder)


def test_numbers_checks_and_settings_are_told(make_run, write):
    folder = make_run()
    told = json.loads((folder / "results.json").read_text())["test"]["recalls"]
    page = write(folder)
    for name in ("txt_r1", "img_r5", "img_r10"):
        assert f"<b>{100 * told[name]:.1f}</b>" in page.source
    assert f"<b>{told['rsum']:.1f}</b>" in page.source
    assert "All 16 values of results.json follow from the scores." in page.text
    assert "no better than chance" not in page.text
    assert "Training reached its last step, 800." in page.text
    for title in ("Loss", "Validation", "Learning rate", "Gradient norm", "Pairs per second",
                  "Where the time of a step goes", "Found within the first k places", "Scores"):
        assert f"<h3>{title}</h3>" in page.source
    assert "hinge, image anchors" in page.text
    assert "1 more that were logged" in page.text
    assert "5e-05" in page.text


def test_an_ensemble_has_its_part_of_the_page(make_run, write, change, tmp_path):
    """An entry without a checkpoint: its members are named, its recalls counted again, its captions found."""
    folder, other = make_run("one"), make_run("two", seed=0, strength=0.8)
    places = [run / "scores" / "test" for run in (folder, other)]
    mean = write_ensemble(folder / "scores" / "test-ensemble", places)
    entry = compute_recalls(Eval(ties="index", folds=4), mean.matrix, mean.owner) | {"ensemble": list(map(str, places))}
    change(folder / "results.json", lambda content: content.update({"test-ensemble": entry}))
    with TextWriter(tmp_path / "words.db", {"CLS": 1, "SEP": 2, "MASK": 3, "v_range": [5, 50]}) as writer:
        for text, owner in zip(mean.texts, mean.owner, strict=True):
            writer.add(text, {"input_ids": [7], "img_fname": mean.images[owner], "raw": f"said of {text}"})
    change(folder / "config.json", lambda content: content["data"].update(test_txt_db=str(tmp_path / "words.db")))
    page = write(folder)
    assert "Results on test-ensemble" in page.text
    assert f"ensemble: the mean scores of {places[0]}, {places[1]}" in page.text
    assert page.text.count("checkpoint step-800") == 1
    assert page.text.count("All 16 values of results.json follow from the scores.") == 2
    assert "index ties · mean of 4 folds" in page.text
    assert f"all images at once: rsum {entry['whole']['rsum']:.1f}, image → text R@1" in page.text
    assert "Ties are counted as listed" in page.text
    assert "Texts are shown by their ids" not in page.text
    assert "said of " in page.text
    assert report.main([str(folder)]) == 0


@pytest.fixture
def staged(make_run, change):
    """A run whose test split was measured in two stages as well."""
    folder = make_run()
    whole = open_scores(folder / "scores" / "test")
    of_texts, of_images = (np.argsort(-whole.matrix, axis=axis).argsort(axis=axis) < 2 for axis in (0, 1))
    chosen = of_texts | of_images
    matrix = np.where(chosen, whole.matrix, -np.inf).astype(np.float32)
    known = shortlist_facts(2, chosen, whole.owner) | {"seconds": {"encode": 12.34, "search": 0.5, "score": 70.0}}
    place = folder / "scores" / "test-two-stage"
    place.mkdir()
    write_scores(place, matrix, whole, "w", known)
    entry = compute_recalls(Eval(), matrix, whole.owner) | {"two_stage": known}
    change(folder / "results.json", lambda content: content.update({"test-two-stage": entry}))
    return folder


def test_two_stages_are_told_for_what_they_are_and_counted_again(staged, write, change, tmp_path):
    known = json.loads((staged / "results.json").read_text())["test-two-stage"]["two_stage"]
    assert known["scored"] < 0.9
    page = write(staged, "--captions", tmp_path / "captions.jsonl")
    assert "Results on test-two-stage" in page.text
    assert f"two stages: {100 * known['scored']:.1f} % of the pairs scored, those among the 2 nearest" in page.text
    assert f"{100 * known['ceiling']['img']:.1f} % of the texts can find a match" in page.text
    assert "(encode 12.3 s, search 0.5 s, score 70.0 s)" in page.text
    assert page.text.count("All 16 values of results.json follow from the scores.") == 2
    assert f"The {known['scored']:.2%} of the pairs that have a score" in page.text
    assert "is not here: recalls" not in page.text
    assert "not scored" in page.text
    assert "-inf" not in page.text
    change(staged / "results.json", lambda content: content["test-two-stage"]["two_stage"].update(scored=0.5))
    assert "Which pairs have a score is not as results.json says; evaluate again." in write(staged).text
    (staged / "scores" / "test-two-stage" / "candidates.npy").unlink()
    assert "scores/test-two-stage is not here: recalls could not be counted again." in write(staged).text
    change(staged / "results.json", lambda content: content["test-two-stage"]["two_stage"].pop("ceiling"))
    with pytest.raises(DataError, match="split 'test-two-stage' lacks ceiling; evaluate again"):
        write(staged)


def test_captions_of_two_stages_are_those_of_their_split(staged, write):
    assert write(staged).text.count("Texts are shown by their ids: gone.db is not here") == 2


def test_updates_that_were_left_out_are_told(make_run, write):
    """A line of the log on which every update was left out has no loss, which says nothing of the others."""
    folder = make_run()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 800, "time": 9.0, "lr": 0.1, "skipped": 10, "pairs_per_s": 3.0}\n')
        file.write('{"event": "train", "step": 790, "time": 9.0, "lr": 0.1, "loss": 0.5, "skipped": 2}\n')
    page = write(folder)
    assert "The loss was finite at all 79 logged steps." in page.text
    assert "Updates left out, for their gradient was not finite: 12." in page.text
    assert "Training reached its last step, 800." in page.text
    assert "<h3>skipped</h3>" in page.source
    lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"loss"' not in line]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    page = write(folder)
    assert "The loss was" not in page.text
    assert "<h3>Loss</h3>" not in page.source


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_ranks_wait_for_is_shown_where_there_are_several(ranks, make_run, write):
    folder = make_run()
    with Journal(folder, tensorboard=False, talk=io.StringIO()) as journal:
        journal.event("start", step=800)
        for step, slowest in ((801, 1), (802, 0), (803, 1), (804, 1)):
            journal.event("train", step, loss=0.5, load_share=0.02, comm_share=0.1, straggler=0.05, slowest=slowest,
                          ranks={"load_s": [0.1] * ranks})
        journal.event("evaluate", name="test", elapsed_s=3.0, load_share=0.5, ranks={"load_s": [0.1] * ranks})
    page = write(folder)
    assert ("<h3>What ranks wait for</h3>" in page.source) == (ranks > 1)
    assert ("Of all ranks' time. Rank 1 was the slowest in 75 % of the lines." in page.text) == (ranks > 1)
    for name in ("straggler", "slowest", "load_share", "comm_share"):
        assert f"<h3>{name}</h3>" not in page.source


def test_a_curve_is_shown_though_its_split_has_a_result(make_run, write, change):
    """As where the test set chose the weights, and the validation split was measured in the end."""
    folder = make_run()
    change(folder / "results.json", lambda content: content.update(val=content["test"]))
    assert "<h3>Validation</h3>" in write(folder).source


def test_mean_ranks_are_shown_where_results_have_them(make_run, write, change):
    folder = make_run()
    told = json.loads((folder / "results.json").read_text())["test"]["recalls"]
    assert f'<td>mean rank</td><td></td><td class="number">{plain(told["img_meanr"])}</td>' in write(folder).source

    def older(content):
        for name in ("txt_meanr", "img_meanr", "r1r5"):
            del content["test"]["recalls"][name]

    change(folder / "results.json", older)
    page = write(folder)
    assert "mean rank" not in page.text
    assert "All 13 values of results.json follow from the scores." in page.text


def test_scores_counted_elsewhere_are_named(make_run, write, change):
    folder = make_run()
    change(folder / "results.json", lambda content: content["test"].update(scores="runs/a/scores/test"))
    assert "counted from runs/a/scores/test" in write(folder).text


def test_without_pictures_and_captions_ids_are_shown_and_said(make_run, write):
    page = write(make_run())
    assert page.count("img") == 0
    assert "Texts are shown by their ids: gone.db is not here" in page.text
    assert "Pictures are shown by their ids" in page.text
    assert page.count("div", **{"class": "picture"}) > 20
    assert "scene_test_0000" in page.text


def test_missing_and_damaged_pictures_are_named(make_run, tmp_path, write):
    folder = make_run(images=12)
    for path in (tmp_path / "pictures" / "test").iterdir():
        path.write_bytes(b"no picture") if path.stem.endswith("1") else path.unlink()
    page = write(folder, "--pictures", tmp_path / "pictures")
    assert re.search(r"\d+ are not shown: scene_test_\d+ (is not there|cannot be read)", page.text)


def test_what_is_wrong_is_told(make_run, write, change):
    folder = make_run()
    change(folder / "results.json", lambda content: content["test"]["recalls"].update(img_r1=0.99))
    change(folder / "results.json", lambda content: content["test"].update(ties="optimistic", left_out=["7"]))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 800, "time": 9.0, "loss": null}\n{"event": "tra')
    page = write(folder)
    assert re.search(r"Counted again, 1 values differ from results.json: img_r1 is 0\.\d+, not 0.9900", page.text)
    assert "The loss was not finite at 1 of 80 logged steps, first at step 800." in page.text
    assert "Ties are counted as optimistic" in page.text
    assert "1 damaged records were left out" in page.text


def test_a_run_that_still_trains_has_a_page(make_run, write, change):
    folder = make_run()
    (folder / "results.json").unlink()
    change(folder / "config.json", lambda content: content["optim"].update(num_train_steps=5000))
    page = write(folder)
    assert "There are no results yet" in page.text
    assert "the last event is of step 800 of 5,000" in page.text


def test_an_evaluation_alone_has_a_page(make_run, write):
    folder = make_run()
    (folder / "metrics.jsonl").unlink()
    (folder / "config.json").unlink()
    page = write(folder)
    assert "No training events are here" in page.text
    assert "Scores" in page.text


def test_a_matrix_of_few_candidates_and_ties_has_a_page(make_run, write, change):
    folder = make_run(images=3, each=1)
    scores, owner = np.zeros((3, 3), np.float32), np.arange(3)
    np.save(folder / "scores" / "test" / "matrix.npy", scores)
    change(folder / "results.json", lambda content: content["test"].update(recalls=recalls(scores, owner)))
    page = write(folder)
    assert "A tie touches the top ten of 100.00% of the queries." in page.text
    assert "The recalls are no better than chance: rsum 400.0, by chance 466.7." in page.text


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda folder: [path.unlink() for path in folder.glob("*.json*")], "neither metrics.jsonl nor results.json"),
    (lambda folder: (folder / "results.json").write_text("{"), "not valid JSON"),
    (lambda folder: (folder / "results.json").write_text('{"test": 1}'), "lacks recalls"),
    (lambda folder: (folder / "results.json").write_text('{"test": {"recalls": {}}}'), "lacks txt_r1"),
    (lambda folder: (folder / "scores/test/matrix.npy").write_bytes(b"junk"), "no score matrix"),
    (lambda folder: np.save(folder / "scores/test/matrix.npy", np.zeros((2, 2))), r"matrix.npy has shape \(2, 2\)"),
])
def test_damaged_folders_are_refused(make_run, spoil, said):
    folder = make_run()
    spoil(folder)
    with pytest.raises(DataError, match=said):
        report.main([str(folder)])
    assert not (folder / "report.html").exists()


def test_from_the_command_line(make_run, tmp_path):
    script = Path(report.__file__)
    done = subprocess.run([sys.executable, script, make_run()], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("report.html")
    failed = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 3
    assert len(failed.stderr.splitlines()) == 1
