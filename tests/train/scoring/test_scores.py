"""train/scoring/scores.py: matrices are kept whole, opened checked, and averaged block by block."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import DataError
from train.scoring import scores as module
from train.scoring.scores import (
    CANDIDATES,
    Scores,
    mean_scores,
    open_scores,
    read_origin,
    read_two_stage,
    write_ensemble,
    write_scores,
)


def made(seed: int, kind: type = np.float32, **changes: Any) -> Scores:
    rng = np.random.default_rng(seed)
    names = {"images": [f"i{n}.npz" for n in range(6)], "texts": [str(n) for n in range(14)],
             "owner": np.arange(14) % 6} | changes
    return Scores(rng.standard_normal((len(names["images"]), len(names["texts"]))).astype(kind), **names)


def keep(folder: Path, scores: Scores, origin: str = "weights") -> Path:
    folder.mkdir(parents=True)
    write_scores(folder, scores.matrix, scores, origin)
    return folder


def test_what_is_kept_is_opened_again(tmp_path: Path) -> None:
    scores = made(0)
    folder = keep(tmp_path / "a", scores)
    again = open_scores(folder)
    np.testing.assert_array_equal(again.matrix, scores.matrix)
    assert (again.images, again.texts) == (scores.images, scores.texts)
    np.testing.assert_array_equal(again.owner, scores.owner)
    assert isinstance(again.matrix, np.memmap)
    assert read_origin(folder) == "weights"
    assert read_origin(tmp_path) is None


def test_scores_of_candidates_alone_are_never_taken_for_all(tmp_path: Path) -> None:
    scores, known = made(0), {"k": 3, "scored": 0.25}
    write_scores(tmp_path, scores.matrix, scores, "weights", known)
    assert read_two_stage(tmp_path) == known
    assert read_origin(tmp_path, CANDIDATES) == "weights"
    assert read_origin(tmp_path) is None
    np.testing.assert_array_equal(np.load(tmp_path / CANDIDATES, allow_pickle=False), scores.matrix)
    np.testing.assert_array_equal(open_scores(tmp_path, CANDIDATES).matrix, scores.matrix)
    with pytest.raises(DataError, match=r"matrix\.npy: no score matrix"):
        open_scores(tmp_path)
    assert read_two_stage(keep(tmp_path / "all", scores)) is None


def test_a_matrix_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = made(0)
    folder = keep(tmp_path / "a", scores)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        write_scores(folder, np.ones((6, 14)), scores, "after")
    np.testing.assert_array_equal(np.load(folder / "matrix.npy", allow_pickle=False), scores.matrix)
    assert read_origin(folder) is None, "what is half replaced is not used again"


def replaced(folder: Path, matrix: np.ndarray) -> None:
    """Another matrix in a folder of another's making, which notes no checksums."""
    np.save(folder / "matrix.npy", matrix)
    ids = json.loads((folder / "ids.json").read_text())
    del ids["crc32c"]
    (folder / "ids.json").write_text(json.dumps(ids))


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda folder: (folder / "matrix.npy").unlink(), r"matrix\.npy: no score matrix .*; evaluate again, or name"),
    (lambda folder: (folder / "matrix.npy").write_bytes(b"junk"), r"matrix\.npy: no score matrix"),
    (lambda folder: (folder / "ids.json").unlink(), r"ids\.json cannot be read"),
    (lambda folder: (folder / "ids.json").write_text("{"), r"ids\.json is not JSON"),
    (lambda folder: (folder / "ids.json").write_text("[]"), r"ids\.json: lacks images"),
    (lambda folder: (folder / "ids.json").write_text('{"images": [], "texts": []}'), r"ids\.json: lacks owner"),
    (lambda folder: np.save(folder / "matrix.npy", np.zeros((6, 14))), "are not as they were written"),
    (lambda folder: replaced(folder, np.zeros((2, 2))),
     r"shape \(2, 2\), ids\.json names 6 images and 14 texts with 14 owners"),
    (lambda folder: replaced(folder, np.zeros(6)), r"shape \(6,\)"),
])
def test_damaged_scores_are_refused(spoil: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    folder = keep(tmp_path / "a", made(0))
    spoil(folder)
    with pytest.raises(DataError, match=said):
        open_scores(folder)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_mean_of_several_is_exact_and_kept_like_the_scores_of_one(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_VALUES", 30)  # two rows at a time
    members = [made(seed, kind) for seed in range(3)]
    folders = [keep(tmp_path / str(seed), member, f"w{seed}") for seed, member in enumerate(members)]
    mean = write_ensemble(tmp_path / "out" / "mean", folders)
    assert mean.matrix.dtype == np.float64
    np.testing.assert_array_equal(mean.matrix, sum(member.matrix.astype(np.float64) for member in members) / 3)
    assert mean.images == members[0].images
    assert read_origin(tmp_path / "out" / "mean") == "w0 + w1 + w2"
    assert sorted(path.name for path in (tmp_path / "out" / "mean").iterdir()) == ["ids.json", "matrix.npy"]


def test_means_that_float32_cannot_tell_apart_are_no_ties() -> None:
    one, two = np.array([[1.0, 1.0]], np.float32), np.array([[1e-9, 2e-9]], np.float32)
    mean = mean_scores([one, two])
    assert mean[0, 0] < mean[0, 1]
    assert mean.astype(np.float32)[0, 0] == mean.astype(np.float32)[0, 1]


def test_a_mean_may_replace_one_of_its_parts(tmp_path: Path) -> None:
    """An ensemble that is taken into itself reads the old matrix, not the one being written."""
    members = [made(0, np.float64), made(1, np.float64)]
    folders = [keep(tmp_path / str(seed), member) for seed, member in enumerate(members)]
    mean = write_ensemble(folders[0], folders)
    np.testing.assert_array_equal(mean.matrix, (members[0].matrix + members[1].matrix) / 2)


@pytest.mark.parametrize(("changes", "said"), [
    ({"images": ["i0.npz", "x.npz", *(f"i{n}.npz" for n in range(2, 6))]},
     "image 1 is i1.npz in the first and x.npz in the second"),
    ({"images": [f"i{n}.npz" for n in range(7)]}, "image 6 is absent in the first and i6.npz in the second"),
    ({"texts": [str(n) for n in range(13)], "owner": np.arange(13) % 6},
     "text 13 is 13 in the first and absent in the second"),
    ({"texts": [*map(str, range(12)), "13", "12"]}, "text 12 is 12 in the first and 13 in the second"),
    ({"owner": np.array([*(np.arange(13) % 6), 5])},
     "the image of text 13 is i1.npz in the first and i5.npz in the second"),
])
def test_scores_of_other_pairs_are_not_averaged(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folders = [keep(tmp_path / "a", made(0)), keep(tmp_path / "b", made(1)), keep(tmp_path / "c", made(2, **changes))]
    with pytest.raises(DataError, match=rf"/b and .*/c: {said}; give scores of the same split"):
        write_ensemble(tmp_path / "mean", folders)
    assert not (tmp_path / "mean").exists()


def test_an_interrupted_mean_leaves_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [keep(tmp_path / str(seed), made(seed)) for seed in range(2)]
    before = write_ensemble(tmp_path / "mean", folders).matrix.copy()

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "mean_scores", dies)
    with pytest.raises(KeyboardInterrupt):
        write_ensemble(tmp_path / "mean", folders)
    assert read_origin(tmp_path / "mean") is None
    np.testing.assert_array_equal(np.load(tmp_path / "mean" / "matrix.npy", allow_pickle=False), before)


def test_names_are_kept_in_the_order_of_rows_and_columns(tmp_path: Path) -> None:
    folder = keep(tmp_path / "a", made(0))
    told = json.loads((folder / "ids.json").read_text())
    assert list(told) == ["images", "texts", "owner", "origin", "crc32c"]
    assert told["owner"] == [n % 6 for n in range(14)]
