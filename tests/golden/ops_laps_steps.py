"""Whole training steps of LAPS: the product's forward, losses, clipping, AdamW and schedule on published weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from config.sections import Optim
from model import conversion
from model.loading import load
from model.matcher import Matcher, build
from model.objective.triplet import Config, Triplet
from tests.golden.run import sibling
from train.assembly.optim import clip
from train.assembly.precision import Precision
from train.distributed.comm import Solo
from train.loop.batch_regime import match_batch, total_loss

shared, losses = sibling("ops_laps"), sibling("ops_laps_loss")
Tensors = dict[str, Tensor]
INPUTS = ("images", "captions", "lengths", "img_ids")


def objective_of(config: dict[str, Any]) -> Triplet:
    """The published hinge: epochs become shares of the run."""
    epochs, rises = config["epochs"], config["embedding_warmup_epochs"]
    if config.get("loss", "vse") != "vse" or 0 < rises < epochs:
        raise ValueError("only the hinge is stepped here, which rises in the first epoch or never")
    hardest_from = min(1.0, config["vse_mean_warmup_epochs"] / epochs)
    return Triplet(Config(margin=config["margin"], ramp=0 if rises else 1 / epochs, hardest_from=hardest_from))


def step(matcher: Matcher, optimizer: torch.optim.Optimizer, objective: Triplet, optim: Optim, number: int,
         batch: tuple[Tensor, ...]) -> Tensors:  # fmt: skip
    """Update `number` (from 0), and what the published program logs of it."""
    precision = Precision("off", torch.device("cpu"))
    out = match_batch(matcher, shared.batch_of(*batch), Solo(), precision.autocast)
    terms = objective(out, None, number / optim.num_train_steps)
    loss = total_loss(terms, out.aux, 1)
    precision.backward(loss)
    norm = clip(matcher.parameters(), optim.grad_norm)
    rates = losses.rates(optimizer, optim, number)
    precision.step(optimizer)
    optimizer.zero_grad()
    risen = terms["ramp"].value if "ramp" in terms else torch.tensor(1.0)
    return {"losses": loss.detach(), "grad_norms": norm, "lrs": rates.float(), "warmup_alpha": risen}


def train_steps(case: Any) -> Tensors:
    epochs, per_epoch = case.inputs["lengths"].shape[:2]
    matcher = build(shared.settings_of(case.config)).train()
    load(matcher, "laps", case.weights)
    before = {name: tensor.clone() for name, tensor in matcher.state_dict().items()}
    optim, objective = losses.optim_of(case.config, per_epoch), objective_of(case.config)
    optimizer = losses.optimizer_of(optim, list(matcher.named_parameters()))
    steps = []
    for number in range(epochs * per_epoch):
        batch = tuple(case.inputs[name].flatten(0, 1)[number] for name in INPUTS)
        steps.append(step(matcher, optimizer, objective, optim, number, batch))
    found = {name: torch.stack([each[name] for each in steps]) for name in steps[0]}
    after = conversion.to_published("laps", matcher.state_dict())
    start = conversion.to_published("laps", before)
    for name in case.config["final_weights"]:
        found |= {f"final.{name}": after[name], f"delta.{name}": after[name] - start[name]}
    return found


OPS = {"train_steps": train_steps}
