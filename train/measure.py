"""Retrieval measured on a split: the full score matrix and its recalls, or the published quick check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.errors import DataError
from config.schema import Eval
from data.negatives import following
from data.pairs import Array, PairIndex
from train.journal import Journal
from train.recall import recalls
from train.recipe import Parts
from train.splits import Split


def measure(parts: Parts, split: Split, name: str, folder: Path, journal: Journal) -> dict[str, Any] | None:
    """Score every pair of `split`, keep the matrix in `folder/scores/<name>`, and return what rank 0 found.

    Returns:
        The entry for results.json on rank 0, None elsewhere.
    """
    place = folder / "scores" / name
    place.mkdir(parents=True, exist_ok=True)
    total = len(split.index.images) * len(split.index.texts)
    journal.say(f"{name}: scoring {len(split.index.images)} images x {len(split.index.texts)} texts = {total} pairs")
    matrix = parts.scorer.matrix(split.index, place, tenths(name, journal))
    if matrix is None:
        return None
    matrix = matrix.astype(parts.run.eval.score_dtype, copy=False)
    keep_scores(place, matrix, split.index)
    return judged(parts.run.eval, matrix, split.index.owner) | {"left_out": list(split.left_out)}


def tenths(name: str, journal: Journal) -> Callable[[int, int], None]:
    """Says each tenth of the stripes that is done."""

    def said(done: int, of: int) -> None:
        if done * 10 // of != (done - 1) * 10 // of:
            journal.say(f"{name}: {done * 100 // of} % scored")

    return said


def judged(options: Eval, matrix: Array, owner: Array) -> dict[str, Any]:
    """Recalls of a score matrix `[images, texts]`, with what they were counted over."""
    return {
        "recalls": recalls(matrix, owner, options.ties, options.ir_count, options.folds),
        "images": matrix.shape[0],
        "texts": matrix.shape[1],
        "folds": options.folds,
        "ties": options.ties,
        "ir_count": options.ir_count,
    }


def keep_scores(place: Path, matrix: Array, index: PairIndex) -> None:
    """Write `matrix.npy` and `ids.json`, each whole or not at all."""
    beside = place / "matrix.partial"
    with beside.open("wb") as file:
        np.save(file, matrix)
    beside.replace(place / "matrix.npy")
    ids = {"images": index.images, "texts": index.texts, "owner": index.owner.tolist()}
    write_json(place / "ids.json", ids)


@torch.inference_mode()
def quick_check(parts: Parts, split: Split) -> dict[str, float]:
    """Recalls of each text's image among it and the images that follow in order (spec of the published validation).

    Not comparable with published tables. Every rank takes its share of the texts and gets the mean.
    """
    index, run, comm = split.index, parts.run, parts.comm
    candidates = torch.from_numpy(following(index.owner, len(index.images), run.eval.inf_minibatch_size))
    mine = np.arange(comm.rank, len(index.texts), comm.size)
    parts.matcher.eval()
    hits = torch.zeros(4, dtype=torch.float64)
    with parts.precision.autocast():
        images = parts.scorer.encode_images(index, np.arange(len(index.images)))
        texts = parts.scorer.encode_texts(index, mine)
        for at in range(len(mine)):
            rows = candidates[mine[at]]
            scores = parts.matcher.score_pairs(images, texts, rows, torch.full_like(rows, at)).float()
            rank = int((scores[1:] >= scores[0]).sum())
            hits += torch.tensor([rank < 1, rank < 5, rank < 10, True], dtype=torch.float64)
    r1, r5, r10, _ = (comm.mean(hits, "quick") / comm.mean(hits[3], "quick.count")).tolist()
    total = r1 + r5 + r10
    return {"img_r1": r1, "img_r5": r5, "img_r10": r10, "img_r_mean": total / 3, "rsum": 100 * total}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is there whole or not at all."""
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(value, indent=1))
    beside.replace(path)


def read_json(path: Path) -> Any:
    """Raises DataError for a file that is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; name a folder that an evaluation wrote") from error
