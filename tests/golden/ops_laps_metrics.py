"""LAPS's evaluation: ranks and recalls of a matrix, of its folds, and a split scored from pictures and word ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches.batch import Images
from model.loading import load_part
from model.matcher import Side, build
from tests.golden.run import sibling
from train.assembly.precision import Precision
from train.distributed.comm import Solo
from train.scoring.recall import fold_recalls, mean, order_candidates, rank_images, rank_texts, recalls
from train.scoring.scorer import Scorer
from train.scoring.sides import encode_side

shared, metrics_of = sibling("ops_laps"), sibling("ops_aoq_metrics")
Tensors = dict[str, Tensor]
TIES = "index"
CPU = torch.device("cpu")


def owner_of(case: Any, scores: Tensor) -> Any:
    """So many captions an image, one image after the other."""
    return np.arange(scores.shape[1]) // case.config["captions_per_image"]


def columns(found: dict[str, float]) -> Tensors:
    return {name: torch.tensor(metrics_of.columns(found, side)) for name, side in metrics_of.WAYS.items()}


def metrics(case: Any) -> Tensors:
    scores = case.inputs["sims"].numpy()
    owner = owner_of(case, case.inputs["sims"])
    found = recalls(scores, owner, TIES)
    right = owner == np.arange(len(scores))[:, None]
    return columns(found) | {
        "rsum": torch.tensor(found["rsum"]),
        "i2t_ranks": torch.from_numpy(rank_texts(scores, owner, TIES)).long(),
        "t2i_ranks": torch.from_numpy(rank_images(scores, owner, TIES)).long(),
        "i2t_top1": torch.from_numpy(order_candidates(scores, right, TIES)[:, 0].copy()),
        "t2i_top1": torch.from_numpy(order_candidates(scores.T, right.T, TIES)[:, 0].copy()),
    }


def metrics_folds(case: Any) -> Tensors:
    scores, folds = case.inputs["sims"], len(case.inputs["sims"]) // case.config["fold_images"]
    each = fold_recalls(scores.numpy(), owner_of(case, scores), TIES, folds=folds)
    rows = [metrics_of.row(found) for found in (*each, mean(each))]
    return {"folds": torch.tensor(rows[:-1]), "mean": torch.tensor(rows[-1])}


def retrieval_eval(case: Any) -> Tensors:
    """Encoded in chunks and scored in blocks of the sizes that the case names, neither of which may matter."""
    pictures, chunk = case.inputs["images"], case.config["encode_batch_size"]
    each = torch.zeros(len(case.inputs["captions"]), dtype=torch.int64)
    texts = shared.batch_of(pictures, case.inputs["captions"], case.inputs["lengths"], each).texts
    config = shared.settings_of(case.config)
    model = build(config)
    load_part(model, config.name, case.weights)
    model.eval()
    scorer = Scorer(model, Solo(), CPU, Precision("off", CPU).autocast, tokens=case.config["shard_size"])
    with torch.inference_mode():
        items = torch.arange(len(pictures)).numpy(), torch.arange(len(texts)).numpy()
        images = encode_side(
            lambda some: model.encode_image(Images.of_pixels(pictures[some])),
            items[0],
            np.ones(len(pictures), np.int64),
            chunk,
            Solo(),
        )
        words = encode_side(lambda some: model.encode_text(texts.select(torch.from_numpy(some))), items[1],
                        texts.lengths.numpy(), chunk, Solo())
        sims = scored(scorer, images, words, case.config["shard_size"])
    tokens = images.rows.values.unflatten(0, (len(pictures), -1))
    found = recalls(sims.numpy(), owner_of(case, sims), TIES)
    padded = words.rows.padded(case.config["max_word"])[0]
    outputs = {"img_embs": tokens, "cap_embs": padded, "cap_lens": case.inputs["lengths"], "sims": sims}
    return outputs | columns(found)


def scored(scorer: Scorer, images: Side, texts: Side, size: int) -> Tensor:
    """All pairs, so many texts at a time."""
    parts = [scorer.score_stripe(images, texts.slice(start, min(start + size, len(texts))))
             for start in range(0, len(texts), size)]
    return torch.from_numpy(np.concatenate(parts, 1))


OPS = {"metrics": metrics, "metrics_folds": metrics_folds, "retrieval_eval": retrieval_eval}
