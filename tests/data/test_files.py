"""data/files.py: small files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import DataError
from data.files import read_json, write_array, write_json


def test_json_round_trip_leaves_no_other_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"café": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"café": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_a_missing_or_broken_file_is_named_with_the_remedy(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"ids\.json .*; evaluate again$"):
        read_json(path, "evaluate again")


def test_what_was_good_stays_until_the_new_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, plain = tmp_path / "a.npy", tmp_path / "a.json"
    write_json(plain, {"a": 1})
    write_array(numbers, np.zeros(3))
    with pytest.raises(TypeError):
        write_json(plain, {"a": object()})

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    for again in (lambda: write_json(plain, {"a": 2}), lambda: write_array(numbers, np.ones(3))):
        with pytest.raises(KeyboardInterrupt):
            again()
    assert read_json(plain) == {"a": 1}
    assert not np.load(numbers, allow_pickle=False).any()
