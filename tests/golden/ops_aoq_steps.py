"""Whole training steps of VSRN and BFAN: the product's forward, loss, clipping and Adam on published weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from config.sections import Optim
from data.batches.batch import Batch, Images, Ragged
from model import conversion
from model.bfan import Bfan, Config
from model.loading import load
from model.matcher import Matcher, Side
from model.objective.quintuplet import Quintuplet
from model.parts.captioning import Targets
from model.vsrn import Vsrn
from tests.golden.run import sibling
from train.assembly.optim import build_optimizer, clip, stepped_twice
from train.assembly.precision import Precision
from train.distributed.comm import Solo
from train.loop.batch_regime import match_batch, total_loss

vsrn, losses = sibling("ops_aoq_vsrn"), sibling("ops_aoq_loss")
Tensors = dict[str, Tensor]
ENDS = ("", "_off", "_off2")
CAPTION = "caption."
"""What the parameters of VSRN's caption branch begin with in the product."""


def batch_of(inputs: Tensors) -> Batch:
    """The three published sets as one batch of items, none of which is related to another."""
    regions = torch.cat([inputs[f"regions{end}"] for end in ENDS])
    lengths = torch.full((len(regions),), regions.shape[1])
    images = Images(Ragged.of(regions.flatten(0, 1), lengths), torch.zeros(regions[..., 0].numel(), 7))
    texts = Ragged.cat([vsrn.texts_of(inputs[f"token_ids{end}"], inputs[f"lengths{end}"]) for end in ENDS])
    items = len(inputs["regions"])
    number = torch.arange(3 * items)
    return Batch(images, texts, number, number).in_sets(3, torch.arange(items))


def step(case: Any, system: str, matcher: Matcher, twice: str) -> Tensors:
    """One update; everything that the published step leaves behind."""
    config = case.config
    load(matcher.train(), system, case.weights)
    before = {name: tensor.clone() for name, tensor in matcher.state_dict().items()}
    optim = Optim(optim="adam", learning_rate=config["learning_rate"], betas=tuple(config["adam_betas"]),
                  adam_eps=config["adam_eps"], weight_decay=0.0, step_twice=twice)
    optimizer = build_optimizer(optim, matcher.named_parameters(), ())
    out = match_batch(matcher, batch_of(case.inputs), Solo(), Precision("off", torch.device("cpu")).autocast)
    terms = Quintuplet(losses.loss_settings(config))(out, None, 0.0)
    loss = total_loss(terms, out.aux, 1)
    loss.backward()
    norm = clip(matcher.parameters(), config["grad_clip"], stepped_twice(optimizer))
    clipped = {name: p.grad.clone() for name, p in matcher.named_parameters()}
    optimizer.step()
    after = matcher.state_dict()
    moved = {name: (after[name] - before[name]) / config["learning_rate"] for name in clipped}
    retrieval = total_loss(terms, {}, 1)
    found = {"loss": loss, "retrieval_loss": retrieval, "grad_norm": norm}
    found |= {"img_emb": out.images.pooled, "cap_emb": out.texts.pooled} if out.images.pooled is not None else {}
    found |= {"caption_loss": out.aux["caption"]} if "caption" in out.aux else {}
    buffers = {name: tensor for name, tensor in after.items() if name not in clipped}
    named = (("grad_clipped.", clipped), ("delta.", moved), ("buffer_after.", buffers))
    published = [(label, conversion.to_published(system, ours)) for label, ours in named]
    return found | {label + name: t for label, theirs in published for name, t in theirs.items()}


class Told(Vsrn):
    """VSRN that is told what to say: the cases' labels are not the captions that the text encoder reads."""

    targets: Targets

    def aux(self, images: Side, texts: Ragged, image: Tensor, text: Tensor, keys: Tensor) -> Tensors:
        return {"caption": self.caption(images.rows, image, self.targets, keys).loss}


def vsrn_train_step(case: Any) -> Tensors:
    matcher = Told(vsrn.settings_of(case.config))
    matcher.targets = Targets(case.inputs["labels"], case.inputs["masks"].bool())
    return step(case, "vsrn", matcher, CAPTION if case.config["duplicate_caption_params"] else "")


def bfan_train_step(case: Any) -> Tensors:
    named = {name: value for name, value in case.config.items() if name in Config.model_fields}
    return step(case, "bfan", Bfan(Config(**named)), "")


OPS = {"vsrn_train_step": vsrn_train_step, "bfan_train_step": bfan_train_step}
