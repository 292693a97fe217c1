"""gallery.py: every query in one group, the right answers marked, ties as they are counted, and a page."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest

from config.errors import DataError
from scripts import gallery
from scripts.page.outcome import open_outcome


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


def test_ties_stand_as_they_are_counted(make_run, change):
    folder = make_run(images=6, each=1)
    np.save(folder / "scores" / "test" / "matrix.npy", np.zeros((6, 6), np.float32))
    for ties, place in (("pessimistic", 6), ("optimistic", 1)):
        change(folder / "results.json", lambda content, ties=ties: content["test"].update(ties=ties))
        outcome = open_outcome(folder)
        shown = gallery.make_gallery(outcome, "test", outcome.scores("test"), None, None, 1)
        examples = [example for group in shown.text_queries for example in group.examples]
        assert [example.best.place for example in examples] == [place]
    change(folder / "results.json", lambda content: content["test"].update(ties="index"))
    outcome = open_outcome(folder)
    shown = gallery.make_gallery(outcome, "test", outcome.scores("test"), None, None, 6)
    for groups, name in ((shown.image_queries, "text {}"), (shown.text_queries, "scene_test_{:06d}")):
        examples = [example for group in groups for example in group.examples]
        assert sorted(example.best.place for example in examples) == [1, 2, 3, 4, 5, 6]
        assert {example.answers[0].label for example in examples} == {name.format(0)}
        for example in examples:
            assert example.best.label == name.format(example.best.place - 1), "at the place where it is listed"


def test_gallery_page(make_run, tmp_path, read_page):
    folder = make_run()
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(tmp_path / "pictures", "pictures")
    assert gallery.main([str(folder), "--pictures", str(tmp_path / "pictures.tar"), "--examples", "2"]) == 0
    page = read_page(folder / "gallery.html")
    assert page.open == []
    assert page.count("img", src="data:image/jpeg") >= 10
    with pytest.raises(DataError, match="evaluate this split first"):
        gallery.main([str(folder), "--split", "val"])
