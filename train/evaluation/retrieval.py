"""Retrieval on a split: the full score matrix and its recalls, or the published quick check."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.sections import Eval
from data.batches.hard_pools import next_images
from data.batches.pairs import Array
from train.assembly.recipe import Parts
from train.assembly.splits import Split
from train.metrics.clock import Clock
from train.metrics.journal import Journal
from train.metrics.throughput import describe_pace, report_throughput
from train.scoring.recall import fold_recalls, mean, recalls
from train.scoring.scorer import shared_fingerprint
from train.scoring.scores import CANDIDATES, MATRIX, TWO_STAGE, find_earlier_matrix, read_two_stage, write_scores
from train.scoring.two_stage import Facts, TwoStage


def measure(
    parts: Parts, split: Split, name: str, folder: Path, journal: Journal, folds: int | None = None
) -> dict[str, Any] | None:
    """Score every pair of `split`, keep the matrix in `folder/scores/<name>`, and return what rank 0 found.

    A matrix that the same weights left there for the same pairs is counted again, not computed again.

    Args:
        folds: equal parts of the images that recalls are averaged over; None as the run says.

    Returns:
        The entry for results.json on rank 0, None elsewhere.
    """
    keep, comm, index = parts.run.eval.two_stage, parts.comm, split.index
    place = folder / "scores" / (name + (TWO_STAGE if keep else ""))
    place.mkdir(parents=True, exist_ok=True)
    stripes = f"{shared_fingerprint(parts.matcher, index, comm)}-{parts.run.optim.precision}"
    stripes += f"-two_stage-{keep}" if keep else ""
    origin, file = f"{stripes}-{parts.run.eval.score_dtype}", CANDIDATES if keep else MATRIX
    matrix = find_earlier_matrix(place, file, origin, journal.say) if comm.rank == 0 else None
    if comm.all_gather_object(matrix is not None)[0]:
        journal.say(f"{name}: scored before by these weights")
    else:
        matrix, two_stage = score_split(parts, split, name, place / "parts" / stripes, journal)
        if matrix is not None:
            shutil.rmtree(place / "parts")  # what an evaluation of other weights left unfinished goes too
            write_scores(place, matrix, index, origin, two_stage)
    if matrix is None:
        return None
    options = parts.run.eval if folds is None else parts.run.eval.model_copy(update={"folds": folds})
    found = compute_recalls(options, matrix, index.owner) | {"left_out": list(split.left_out)}
    return found | ({"two_stage": read_two_stage(place)} if keep else {})


def score_split(
    parts: Parts, split: Split, name: str, stripes: Path, journal: Journal
) -> tuple[Array | None, Facts | None]:
    """The score matrix on rank 0, in the type that scores are kept in, and what is known of its two stages."""
    index, keep, scorer = split.index, parts.run.eval.two_stage, parts.scorer
    said = report_tenths(name, journal, scorer.clock)
    total = len(index.images) * len(index.texts)
    pairs = f"{len(index.images)} images x {len(index.texts)} texts = {total} pairs"
    with report_throughput("evaluate", name, scorer.clock, parts.comm, journal):
        if not keep:
            journal.say(f"{name}: scoring {pairs}")
            matrix, two_stage = scorer.matrix(index, stripes, said), None
        else:
            journal.say(f"{name}: two stages: of {pairs} scoring those among the {keep} nearest of each image and text")
            found = TwoStage(scorer, keep).matrix(index, stripes, said)
            matrix, two_stage = found or (None, None)
    return None if matrix is None else matrix.astype(parts.run.eval.score_dtype, copy=False), two_stage


def report_tenths(name: str, journal: Journal, clock: Clock) -> Callable[[int, int], None]:
    """Says each tenth of the stripes that is done, and how fast this rank has been so far."""

    def said(done: int, of: int) -> None:
        if done * 10 // of != (done - 1) * 10 // of:
            journal.say(f"{name}: {done * 100 // of} % scored  {describe_pace(clock.so_far())}")

    return said


def compute_recalls(options: Eval, matrix: Array, owner: Array) -> dict[str, Any]:
    """Recalls of a score matrix `[images, texts]`, with what they were counted over.

    With folds, "recalls" are the mean of "each_fold", and "whole" are those among all images at once.
    """
    ties, ir_count, median_rank = options.ties, options.ir_count, options.median_rank
    each = fold_recalls(matrix, owner, ties, ir_count, options.folds, median_rank)
    whole = recalls(matrix, owner, ties, ir_count, median_rank=median_rank) if options.folds > 1 else None
    return {
        "recalls": mean(each),
        "images": matrix.shape[0],
        "texts": matrix.shape[1],
        "folds": options.folds,
        "ties": ties,
        "ir_count": ir_count,
        "median_rank": median_rank,
    } | ({"each_fold": each, "whole": whole} if whole else {})


@torch.inference_mode()
def quick_check(parts: Parts, split: Split) -> dict[str, float]:
    """Recalls of each text's image among it and the images that follow in order (spec of the published validation).

    Not comparable with published tables. Every rank takes its share of the texts and gets the mean.
    """
    index, run, comm = split.index, parts.run, parts.comm
    candidates = torch.from_numpy(next_images(index.owner, len(index.images), run.eval.inf_minibatch_size))
    mine = torch.arange(comm.rank, len(index.texts), comm.size)
    tokens = run.eval.inf_minibatch_size * (index.regions.mean() + index.words.mean())
    parts.matcher.eval()
    hits = torch.zeros(4, dtype=torch.float64)
    with parts.precision.autocast():
        images = parts.scorer.encode_images(index, np.arange(len(index.images)), together=True)
        texts = parts.scorer.encode_texts(index, mine.numpy())
        for at in torch.arange(len(mine)).split(max(1, int(run.eval.tokens_per_block / tokens))):
            rows, pool_image = candidates[mine[at]].unique(return_inverse=True)
            pool_text = torch.arange(len(at))[:, None].expand_as(pool_image)
            some, few = images.select(rows), texts.select(at)
            scores = parts.matcher.score_pairs(some, few, pool_image.flatten(), pool_text.flatten())
            scores = scores.view(pool_image.shape).float()
            rank = (scores[:, 1:] >= scores[:, :1]).sum(1).cpu()
            hits += torch.stack([rank < 1, rank < 5, rank < 10, rank >= 0], 1).sum(0)
    r1, r5, r10, _ = (comm.mean(hits, "quick") / comm.mean(hits[3], "quick.count")).tolist()
    total = r1 + r5 + r10
    return {"img_r1": r1, "img_r5": r5, "img_r10": r10, "img_r_mean": total / 3, "rsum": 100 * total}
