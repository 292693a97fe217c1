"""report.py and gallery.py on a made-up run: what the page says, and that it needs nothing but itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as Tree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from config.errors import DataError
from data.texts import TextWriter
from scripts import gallery, report
from scripts.page.charts import Line, curves, layers, smoothed, thinned
from scripts.page.outcome import open_outcome
from scripts.page.plot import plain, ticks, widened
from scripts.page.sources import Captions, Pictures
from train.recall import recalls


class Page(HTMLParser):
    """Counts tags and keeps what a browser would fetch."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.fetched, self.text = [], [], [], ""
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag, **wanted):
        return sum(name == tag and all(wanted[key] in (attrs.get(key) or "") for key in wanted)
                   for name, attrs in self.tags)


def write(folder, *flags):
    assert report.main([str(folder), *map(str, flags)]) == 0
    return Page(folder / "report.html")


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_page_is_whole_and_needs_nothing_else(make_run, tmp_path):
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


def test_numbers_checks_and_settings_are_told(make_run):
    folder = make_run()
    told = json.loads((folder / "results.json").read_text())["test"]["recalls"]
    page = write(folder)
    for name in ("txt_r1", "img_r5", "img_r10"):
        assert f"<b>{100 * told[name]:.1f}</b>" in page.source
    assert f"<b>{told['rsum']:.1f}</b>" in page.source
    assert "All 13 values of results.json follow from the scores." in page.text
    assert "Training reached its last step, 800." in page.text
    for title in ("Loss", "Validation", "Learning rate", "Gradient norm", "Pairs per second",
                  "Where the time of a step goes", "Found within the first k places", "Scores"):
        assert f"<h3>{title}</h3>" in page.source
    assert "hinge, image anchors" in page.text
    assert "1 more that were logged" in page.text
    assert "5e-05" in page.text


def test_without_pictures_and_captions_ids_are_shown_and_said(make_run):
    page = write(make_run())
    assert page.count("img") == 0
    assert "Texts are shown by their ids: gone.db is not here" in page.text
    assert "Pictures are shown by their ids" in page.text
    assert page.count("div", **{"class": "picture"}) > 20
    assert "scene_test_0000" in page.text


def test_missing_and_damaged_pictures_are_named(make_run, tmp_path):
    folder = make_run(images=12)
    for path in (tmp_path / "pictures" / "test").iterdir():
        path.write_bytes(b"no picture") if path.stem.endswith("1") else path.unlink()
    page = write(folder, "--pictures", tmp_path / "pictures")
    assert re.search(r"\d+ are missing or damaged \(scene_test_", page.text)


def test_what_is_wrong_is_told(make_run):
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


def test_a_run_that_still_trains_has_a_page(make_run):
    folder = make_run()
    (folder / "results.json").unlink()
    change(folder / "config.json", lambda content: content["optim"].update(num_train_steps=5000))
    page = write(folder)
    assert "There are no results yet" in page.text
    assert "the last event is of step 800 of 5,000" in page.text


def test_an_evaluation_alone_has_a_page(make_run):
    folder = make_run()
    (folder / "metrics.jsonl").unlink()
    (folder / "config.json").unlink()
    page = write(folder)
    assert "No training events are here" in page.text
    assert "Scores" in page.text


def test_a_matrix_of_few_candidates_and_ties_has_a_page(make_run):
    folder = make_run(images=3, each=1)
    scores, owner = np.zeros((3, 3), np.float32), np.arange(3)
    np.save(folder / "scores" / "test" / "matrix.npy", scores)
    change(folder / "results.json", lambda content: content["test"].update(recalls=recalls(scores, owner)))
    assert "A tie touches the top ten of 100.00% of the queries." in write(folder).text


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda folder: [path.unlink() for path in folder.glob("*.json*")], "neither metrics.jsonl nor results.json"),
    (lambda folder: (folder / "results.json").write_text("{"), "not valid JSON"),
    (lambda folder: (folder / "results.json").write_text('{"test": 1}'), "has no recalls"),
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


def test_gallery_groups_hold_all_queries_and_the_right_answers(make_run, tmp_path):
    folder = make_run(images=40, each=2, strength=0.8)
    outcome = open_outcome(folder)
    scores = outcome.scores("test")
    shown = gallery.make_gallery(outcome, "test", scores, None, tmp_path / "captions.jsonl", 3)
    assert shown == gallery.make_gallery(outcome, "test", scores, None, tmp_path / "captions.jsonl", 3)
    for groups, queries in ((shown.text_queries, 80), (shown.image_queries, 40)):
        assert sum(group.queries for group in groups) == queries
        assert sum(group.share for group in groups) == pytest.approx(1)
        for group, (low, high) in zip(groups, ((1, 1), (2, 10), (11, 40)), strict=True):
            assert len(group.examples) == min(3, group.queries)
            for example in group.examples:
                assert low <= example.best.place <= high
                assert example.best.right
                assert [answer.place for answer in example.answers] == [1, 2, 3, 4, 5]
                values = [answer.score for answer in example.answers]
                assert values == sorted(values, reverse=True)
    first = shown.text_queries[0].examples[0]
    text = json.loads((tmp_path / "captions.jsonl").read_text().splitlines()[int(first.best.label[-6:])])
    assert first.label in text["captions"]


def test_ties_stand_as_they_are_counted(make_run):
    folder = make_run(images=6, each=1)
    np.save(folder / "scores" / "test" / "matrix.npy", np.zeros((6, 6), np.float32))
    for ties, place in (("pessimistic", 6), ("optimistic", 1)):
        change(folder / "results.json", lambda content, ties=ties: content["test"].update(ties=ties))
        outcome = open_outcome(folder)
        shown = gallery.make_gallery(outcome, "test", outcome.scores("test"), None, None, 1)
        examples = [example for group in shown.text_queries for example in group.examples]
        assert [example.best.place for example in examples] == [place]


def test_gallery_page(make_run, tmp_path):
    folder = make_run()
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(tmp_path / "pictures", "pictures")
    assert gallery.main([str(folder), "--pictures", str(tmp_path / "pictures.tar"), "--examples", "2"]) == 0
    page = Page(folder / "gallery.html")
    assert page.open == []
    assert page.count("img", src="data:image/jpeg") >= 10
    with pytest.raises(DataError, match="evaluate this split first"):
        gallery.main([str(folder), "--split", "val"])


def test_captions_come_from_the_text_store_of_the_config(make_run, tmp_path):
    folder = make_run(images=4, each=1)
    meta = {"CLS": 1, "SEP": 2, "MASK": 3, "v_range": [5, 50]}
    with TextWriter(tmp_path / "words.db", meta) as writer:
        for text in range(4):
            name = f"scene_test_{text:06d}.npz"
            writer.add(str(text), {"input_ids": [7, 8], "img_fname": name, "raw": f"words of {text}"})
    change(folder / "config.json", lambda content: content["data"].update(test_txt_db=str(tmp_path / "words.db")))
    outcome = open_outcome(folder)
    captions = Captions.find(outcome, "test", outcome.scores("test"), None)
    assert captions["2"] == "words of 2"
    assert "words.db" in captions.source


def test_captions_that_do_not_fit_are_not_shown(make_run, tmp_path):
    folder = make_run(images=4, each=2)
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    (tmp_path / "captions.jsonl").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    outcome = open_outcome(folder)
    captions = Captions.from_file(tmp_path / "captions.jsonl", outcome.scores("test"))
    assert captions["0"] == "text 0"
    assert captions["4"] == json.loads(lines[2])["captions"][0]
    assert "4 texts, which do not fit the file" in captions.source


def test_pictures_are_found_by_name_or_number(make_run, tmp_path):
    make_run(images=2)
    place = tmp_path / "pictures" / "test"
    (place / "scene_test_000000.png").rename(place / "12345.png")
    pictures = Pictures(tmp_path / "pictures")
    assert pictures.thumbnail("flickr30k_000000012345.npz") is not None
    assert pictures.thumbnail("Scene_test_000001.npz") is not None
    assert pictures.thumbnail("scene_test_000000.npz") is None
    assert pictures.failed == ["scene_test_000000"]
    with pytest.raises(DataError, match="neither a folder nor a tar"):
        Pictures(tmp_path / "absent")


def test_round_ticks_and_plain_numbers():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 5e-5) == pytest.approx([0, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5])
    assert widened(0, 0.93) == pytest.approx((0, 1))
    assert widened(3, 3)[0] < 3 < widened(3, 3)[1]
    assert [plain(value) for value in (0, 0.25, 12500, 3e-05, 1183.6, -4)] == \
        ["0", "0.25", "12,500", "3e-05", "1,184", "-4"]


def test_charts_of_odd_series_are_whole():
    gap = curves("A <b>", [Line("x & y", [1, 2, 3], [1.0, np.nan, 2.0])])
    assert gap.svg.count('class="dot') == 2
    assert "A &lt;b&gt;" in gap.svg
    for chart in (gap, curves("one", [Line("x", [5], [0.5])], percent=True),
                  curves("none", [Line("x", [1, 2], [np.nan, np.nan])]),
                  layers("flat", [1, 2, 3], {"a": [0.0, 0.0, 0.0], "b": [1.0, 2.0, 500.0]})):
        assert "nan" not in chart.svg.replace(chart.title, "")
        Tree.fromstring(chart.svg)
    many = np.arange(10_000.0)
    assert len(thinned(many)) == 240
    assert thinned(many).mean() == pytest.approx(many.mean(), rel=1e-3)
    assert np.isnan(smoothed(np.array([1.0, np.nan, 1.0]))).tolist() == [False, True, False]
