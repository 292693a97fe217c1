"""IAIS: the alignment losses, their step, their schedule, and ISDa, in published names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.objective.iais import ANNEALING, FORMS, Config, Iais, most_attended
from model.parts.attention import Blocks
from tests.golden.run import sibling
from train.evaluation.isda import ObjectAttention, isda, object_attention
from train.loop.step import compute_losses, hardest_negatives, mine_hard_negatives

uniter = sibling("ops_uniter")
Tensors = dict[str, Tensor]
NAMES = {"own": "txt_attn", "out": "t2i_attn", "back": "i2t_attn", "other": "img_attn"}


def alignment(case: Any, form: str) -> tuple[Tensors, Blocks]:
    leaves = {name: case.inputs[name].clone().requires_grad_() for name in NAMES.values()}
    words, regions = leaves["t2i_attn"].shape
    counts = torch.tensor([words]), torch.tensor([regions])
    blocks = Blocks(*(leaves[name][None] for name in NAMES.values()), *counts)
    blocks = blocks if case.config["modal"] == "L" else blocks.transposed
    loss = FORMS[form](blocks).squeeze(0)
    loss.backward()
    grads = {f"grad.{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"loss": loss.detach(), **grads}, blocks


def iais_singular(case: Any) -> Tensors:
    out, blocks = alignment(case, "singular")
    return out | {"match_index": most_attended(blocks)[0]}


def iais_distributed(case: Any) -> Tensors:
    return alignment(case, "distributed")[0]


def iais_hn_step(case: Any) -> Tensors:
    config = case.config
    model, rows = uniter.build(case), uniter.Rows(case.inputs)
    hard, scores = mine_hard_negatives(model, rows.batch(), config["hard_neg_size"], uniter.no_cast)
    options = {name: config[name] for name in ("tsa", "iais_reduction", "margin") if name in config}
    objective = Iais(Config(IAIS=config["mode"], **options))
    progress = config["global_step"] / config["num_train_steps"]
    model.eval()
    out = model(hard, objective.needs)
    rank_loss = uniter.ranking_hinge(out.scores["match"], config["margin"])
    blocks = out.attention.blocks()
    losses = compute_losses(model, objective, hard, progress, uniter.no_cast, anchors=config["train_batch_size"])
    losses.total.backward()
    return {
        "mining_scores": scores.view(-1, 1),
        "hard_indices": hardest_negatives(scores, config["hard_neg_size"])[0],
        "rank_loss": rank_loss,
        "iais_loss": losses.terms["iais"].value,
        "tsa": torch.tensor(losses.terms["iais"].weight),
        "total_loss": losses.total,
        **{name: getattr(blocks, role)[0] for role, name in NAMES.items()},
        **uniter.published_grads(model),
    }


def tsa_schedule(case: Any) -> Tensors:
    shares = [step / case.config["num_train_steps"] for step in case.inputs["steps"].tolist()]
    return {name: torch.tensor([grow(share) for share in shares]) for name, grow in ANNEALING.items()}


def isda_op(case: Any) -> Tensors:
    sides = {"txt": "phrase_tokens", "img": "phrase_regions"}
    seen = [object_attention(case.inputs[f"{side}_attn"][None], case.inputs[of][None]) for side, of in sides.items()]
    value = isda(ObjectAttention(*seen))[0]
    value = value / seen[0].shape[1] if case.config["reduction"] == "rowmean" else value
    return {"isda": value} | {f"{side}_object_attn": found[0].float() for side, found in zip(sides, seen, strict=True)}


OPS = {
    "iais_singular": iais_singular,
    "iais_distributed": iais_distributed,
    "iais_hn_step": iais_hn_step,
    "tsa_schedule": tsa_schedule,
    "isda": isda_op,
}
