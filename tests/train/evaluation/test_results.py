"""train/evaluation/results.py: what was measured stands beside what was measured before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.errors import DataError
from train.evaluation.results import format_recalls, format_table, write_entry


def test_entries_stand_beside_each_other_and_the_newest_of_a_name_counts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name, value in (("val", 1), ("test", 2), ("test", 3)):
        write_entry(folder, name, {"rsum": value})
    assert json.loads((folder / "results.json").read_text()) == {"val": {"rsum": 1}, "test": {"rsum": 3}}


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json is not JSON .*; remove it and evaluate again"):
        write_entry(tmp_path, "test", {})
    assert (tmp_path / "results.json").read_text() == "{"


def values(scale: float = 1.0) -> dict[str, float]:
    """Each number another one, so that none can stand under the name of its neighbour."""
    sides = {"txt": 0, "img": 20}
    recalls = {f"{side}_r{k}": scale * (k + more) / 100 for side, more in sides.items() for k in (1, 5, 10)}
    means = {"txt_r_mean": scale * 0.0533, "img_r_mean": scale * 0.2533, "rsum": scale * 92.0}
    return recalls | means | {"txt_medr": 3.0, "img_medr": 4.5, "txt_meanr": 7.25, "img_meanr": 1234.5}


def test_the_table_is_in_percent_and_every_number_stands_under_its_name() -> None:
    head, to_text, to_image, rsum, end = format_table(values()).split("\n")
    assert head.split("  ")[-1].strip() == "mean rank"
    for name, ours, theirs in (("R@1", "1.0", "21.0"), ("R@5", "5.0", "25.0"), ("R@10", "10.0", "30.0"),
                               ("mean R", "5.3", "25.3"), ("median rank", "3.0", "4.5"),
                               ("mean rank", "7.2", "1234.5")):
        stop = head.index(name) + len(name)
        assert (to_text[:stop].split()[-1], to_image[:stop].split()[-1]) == (ours, theirs), name
    assert to_text.startswith("image to text ")
    assert to_image.startswith("text to image ")
    assert (rsum, end) == ("rsum 92.0", "")


def test_folds_are_shown_by_their_mean_with_the_whole_below() -> None:
    entry = {"recalls": values(), "images": 5000, "folds": 5}
    assert format_recalls({"recalls": values(), "images": 5000, "folds": 1}) == format_table(values())
    text = format_recalls(entry | {"whole": values(0.5), "each_fold": [values()] * 5})
    assert text == (f"mean of 5 folds of 1,000 images\n{format_table(values())}\n"
                    f"all 5,000 images\n{format_table(values(0.5))}")


TWO_STAGE = {"k": 50, "scored": 0.0312, "ceiling": {"txt": 0.98, "img": 0.9754},
             "seconds": {"encode": 12.34, "search": 0.5, "score": 70.0}}


def test_two_stages_are_told_below_the_table() -> None:
    line = ("two stages: 3.1 % of the pairs scored, those among the 50 nearest; so at most 98.0 % of the images and "
            "97.5 % of the texts can find a match (encode 12.3 s, search 0.5 s, score 70.0 s)\n")
    assert format_recalls({"recalls": values(), "folds": 1, "two_stage": TWO_STAGE}) == format_table(values()) + line
    folded = {"recalls": values(), "images": 50, "folds": 5, "whole": values(0.5), "two_stage": TWO_STAGE}
    assert format_recalls(folded).endswith(format_table(values(0.5)) + line)


def test_two_stages_stand_beside_all_pairs(tmp_path: Path) -> None:
    write_entry(tmp_path, "test", {"rsum": 1})
    write_entry(tmp_path, "test", {"rsum": 2, "two_stage": TWO_STAGE})
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == {"test": {"rsum": 1}, "test-two-stage": {"rsum": 2, "two_stage": TWO_STAGE}}


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match=r"results\.json: is no JSON object of entries; remove it and evaluate again"):
        write_entry(tmp_path, "test", {})
    assert (tmp_path / "results.json").read_text() == "[]"
