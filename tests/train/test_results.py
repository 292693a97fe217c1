"""train/results.py: what was measured stands beside what was measured before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.errors import DataError
from train.results import keep, table


def test_entries_stand_beside_each_other_and_the_newest_of_a_name_counts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name, value in (("val", 1), ("test", 2), ("test", 3)):
        keep(folder, name, {"rsum": value})
    assert json.loads((folder / "results.json").read_text()) == {"val": {"rsum": 1}, "test": {"rsum": 3}}


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json is not JSON .*; remove it and evaluate again"):
        keep(tmp_path, "test", {})
    assert (tmp_path / "results.json").read_text() == "{"


def test_the_table_is_in_percent() -> None:
    values = {f"{side}_r{k}": k / 100 for side in ("txt", "img") for k in (1, 5, 10)}
    text = table(values | {"txt_medr": 3.0, "img_medr": 4.0, "rsum": 32.0})
    assert text.splitlines()[1].split() == ["image", "to", "text", "1.0", "5.0", "10.0", "3"]
    assert text.splitlines()[2].split() == ["text", "to", "image", "1.0", "5.0", "10.0", "4"]
    assert text.splitlines()[3] == "rsum 32.0"
