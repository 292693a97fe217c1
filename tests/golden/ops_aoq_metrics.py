"""AOQ's retrieval metrics: scores of one model or the mean of two, ranked with ties by index, in published names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.matcher import Side
from model.vsrn import Config, Vsrn
from train.scoring.recall import (
    Array,
    Floats,
    Ints,
    fold_recalls,
    mean,
    order_candidates,
    rank_images,
    rank_texts,
    recalls,
)
from train.scoring.scores import mean_scores

Tensors = dict[str, Tensor]
TIES = "index"
WAYS = {"i2t": "txt", "t2i": "img"}
RANKS = ("medr", "meanr")


def mean_matrix(case: Any) -> tuple[Floats, Ints]:
    """Scores `[images, texts]`, averaged over the models of the case, and the owner of each text."""
    inputs = {name: value.double() for name, value in case.inputs.items()}
    if "sims" in inputs:
        each = [inputs[name].numpy() for name in ("sims", "sims2") if name in inputs]
    else:
        model = Vsrn(Config(vocab_size=4, img_dim=4, embed_size=4, word_dim=4, caption_weight=0))
        pairs = [(inputs[f"img_emb{n}"], inputs[f"cap_emb{n}"]) for n in ("", "2") if f"img_emb{n}" in inputs]
        each = [model.score(Side(pooled=images), Side(pooled=texts)).numpy() for images, texts in pairs]
    matrix = mean_scores(each)
    return matrix, np.arange(matrix.shape[1]) // case.config["captions_per_image"]


def columns(found: dict[str, float], side: str) -> list[float]:
    """R@1, R@5, R@10 in percent, median rank, mean rank."""
    return [100 * found[f"{side}_r{top}"] for top in (1, 5, 10)] + [found[f"{side}_{what}"] for what in RANKS]


def row(found: dict[str, float]) -> list[float]:
    means = [100 * found[f"{side}_r_mean"] for side in WAYS.values()]
    return [*columns(found, "txt"), *columns(found, "img"), *means, found["rsum"]]


def first_answers(scores: Array, right: Array) -> Tensor:
    """The best candidate of each row."""
    return torch.from_numpy(order_candidates(scores, right, TIES)[:, 0].copy())


def retrieval_metrics(case: Any) -> Tensors:
    matrix, owner = mean_matrix(case)
    found = recalls(matrix, owner, TIES)
    right = owner == np.arange(len(matrix))[:, None]
    numbers = {f"{name}_metrics": columns(found, side) for name, side in WAYS.items()}
    numbers |= {name: 100 * found[f"{side}_r_mean"] for name, side in (("ar", "txt"), ("ari", "img"))}
    numbers |= {"rsum": found["rsum"], "vsrn_selection_score": found["r1r5"]}
    return {name: torch.tensor(value) for name, value in numbers.items()} | {
        "i2t_ranks": torch.from_numpy(rank_texts(matrix, owner, TIES)).long(),
        "t2i_ranks": torch.from_numpy(rank_images(matrix, owner, TIES)).long(),
        "i2t_top1": first_answers(matrix, right),
        "t2i_top1": first_answers(matrix.T, right.T),
    }


def retrieval_metrics_folds(case: Any) -> Tensors:
    matrix, owner = mean_matrix(case)
    each = fold_recalls(matrix, owner, TIES, folds=case.config["folds"])
    whole = mean(each)
    return {
        "per_fold": torch.tensor([row(found) for found in each]),
        "mean": torch.tensor(row(whole)),
        "rsum": torch.tensor(whole["rsum"]),
    }


OPS = {
    "retrieval_metrics": retrieval_metrics,
    "retrieval_metrics_sims": retrieval_metrics,
    "retrieval_metrics_folds": retrieval_metrics_folds,
}
