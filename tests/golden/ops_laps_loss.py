"""LAPS's losses over scores, and its optimizer's groups: published names in, the product's functions, names out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from config.sections import Optim
from model.matcher import MatchOut, Side
from model.objective import distance_weighted, triplet
from train.assembly.optim import build_optimizer, learning_rate, set_learning_rate

Tensors = dict[str, Tensor]
GROUPS = {
    "txt_enc.fc.": ("text.project.", 1.0),
    "txt_enc.bert.": ("text.tower.", 0.1),
    "img_enc.visual_encoder.": ("vision.tower.", 0.1),
    "img_enc.vision_proj.": ("vision.project.", 1.0),
    "cross_net.": ("aggregate.", 1.0),
    "criterion.": ("criterion.", 1.0),
}
"""What the published names of each group begin with, in its order: what ours do, and the multiple of the rate."""


def items(case: Any) -> tuple[Tensor, MatchOut]:
    """The scores of a case, to be differentiated, and the outcome of the batch that has them."""
    scores = case.inputs["scores"].clone().requires_grad_()
    ids, side = case.inputs["img_ids"], Side(pooled=torch.zeros(len(scores), 1))
    return scores, MatchOut({"match": scores}, side, side, positive=ids[:, None] == ids)


def hinge_loss(case: Any) -> Tensors:
    scores, out = items(case)
    config = triplet.Config(margin=case.config["margin"], max_violation=case.config["max_violation"])
    terms = triplet.Triplet(config)(out, None, 1.0)
    loss = torch.stack([term.value for term in terms.values()]).sum()
    loss.backward()
    return {"loss": loss, "grad.scores": scores.grad}


def weighted_triplet_loss(case: Any) -> Tensors:
    (scores, out), given = items(case), case.config
    config = distance_weighted.Config(margin=given["margin"], cut_off=given["cut_off"], dimension=given["d"],
                                      farthest=1.9 if given["dataset"] == "coco" else 1.7)  # fmt: skip
    found: Tensors = {}
    sums = []
    for name, rows, true in (("im", scores, out.positive), ("txt", scores.T, out.positive.T)):
        pairs = true.nonzero()
        found[f"prob_{name}"] = distance_weighted.chances(rows, true, config)[pairs[:, 0]]
        negative = case.inputs[f"neg_idx_{name}"]
        sums.append(distance_weighted.costs(rows, pairs, negative, config.margin).sum())
    loss = torch.stack(sums).sum()
    loss.backward()
    return found | {"loss": loss, "grad.scores": scores.grad}


def optim_of(config: dict[str, Any], steps_per_epoch: int) -> Optim:
    """The published update as the product's settings; epochs become updates."""
    epochs = config["num_epochs"] if "num_epochs" in config else config["epochs"]
    total = epochs * steps_per_epoch
    decay_at = [at for at in (epoch * steps_per_epoch for epoch in sorted(set(config["lr_schedules"]))) if at < total]
    falls = {"schedule": "milestones", "decay_at": tuple(decay_at), "decay_factor": config["decay_rate"]}
    return Optim(
        optim="torch_adamw", learning_rate=config["learning_rate"], betas=(0.9, 0.999), adam_eps=1e-8,
        weight_decay=config.get("weight_decay", 1e-4), decay_all=True, grad_norm=config.get("grad_clip", 2.0),
        rate_factors=tuple(group for group in GROUPS.values()), warmup_steps=0, num_train_steps=total,
        **falls if decay_at else {"schedule": "step", "decay_steps": total},
    )  # fmt: skip


def house_name(name: str) -> str:
    """The product's name of a parameter as far as groups go; poolers, which it lacks, are named as if it had them."""
    start = next(start for start in GROUPS if name.startswith(start))
    return GROUPS[start][0] + name.removeprefix(start)


def optimizer_of(config: Optim, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """The product's optimizer; a stand-in in each published group keeps those that are empty here."""
    stand_ins = [(f"{start}stand_in", nn.Parameter(torch.zeros(1))) for start, _ in GROUPS.values()]
    return build_optimizer(config, [*named, *stand_ins], ())


def rates(optimizer: torch.optim.Optimizer, config: Optim, step: int) -> Tensor:
    """The rates in force in update `step` (from 0), one for each group."""
    set_learning_rate(optimizer, learning_rate(config, step + 1))
    return torch.tensor([group["lr"] for group in optimizer.param_groups], dtype=torch.float64)


def optim_groups(case: Any) -> Tensors:
    config = optim_of(case.config, 1)
    named = [(house_name(name), nn.Parameter(torch.zeros(1))) for name in case.config["param_names"]]
    optimizer = optimizer_of(config, named)
    group_of = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
    return {
        "group_index": torch.tensor([group_of[id(parameter)] for _, parameter in named]),
        "lrs": torch.stack([rates(optimizer, config, step) for step in range(config.num_train_steps)]),
        "weight_decay": torch.tensor([group["weight_decay"] for group in optimizer.param_groups], dtype=torch.float64),
    }


OPS = {
    "hinge_loss": hinge_loss,
    "weighted_triplet_loss": weighted_triplet_loss,
    "optim_groups": optim_groups,
}
