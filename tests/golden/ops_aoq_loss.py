"""The losses over items and the draws of offline negatives: published names in, the product's functions, names out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches.batch import Ragged
from data.batches.offline_negatives import quintuplets
from data.batches.owners import Owners
from model import bfan, vsrn
from model.matcher import Matcher, MatchOut, OfflineScores, Side
from model.objective import triplet
from model.objective.quintuplet import Config, costs
from train.loop.batch_regime import score_offline_pairs

Tensors = dict[str, Tensor]
OPTIONS = ("margin_online", "margin_offline", "alpha", "beta", "max_violation", "detach_weights", "clamp_weights")
PUBLISHED = {"mask_same_image": False, "mask_true_pairs": False, "sum_weight_axis": "columns"}
"""The sides that switches take which no case names; a case may name them."""


def loss_settings(config: dict[str, Any]) -> Config:
    """The objective's own settings for a case."""
    named = {name: config[name] for name in (*OPTIONS, *PUBLISHED) if name in config}
    return Config(**{**PUBLISHED, **named})


def met(matcher: Matcher, sets: list[tuple[Side, Side]]) -> MatchOut:
    """Encoded items as an objective sees them."""
    (images, texts), *others = sets
    scores, unrelated = matcher.score(images, texts), torch.zeros(len(images), dtype=torch.bool)
    offline = OfflineScores(*score_offline_pairs(matcher, *sets).unbind(1), unrelated) if others else None
    own = torch.eye(len(images), dtype=torch.bool)
    return MatchOut({"match": scores}, images, texts, positive=own, offline=offline)


def differentiable(inputs: Tensors) -> Tensors:
    return {name: t.clone().requires_grad_() if t.is_floating_point() else t for name, t in inputs.items()}


def gradients(inputs: Tensors) -> Tensors:
    return {f"grad.{name}": tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}


def triplet_loss(case: Any) -> Tensors:
    given = differentiable(case.inputs)
    out = met(dot(), [(Side(pooled=given["im"]), Side(pooled=given["s"]))])
    settings = triplet.Config(margin=case.config["margin"], max_violation=case.config["max_violation"],
                              mask_same_image=False)
    found = triplet.hinges(triplet.rivals(out, settings.margin, False), settings.margin, settings.max_violation)
    loss = sum(term.value for term in triplet.Triplet(settings)(out, None, 0.0).values())
    loss.backward()
    return {"loss": loss, "scores": out.scores["match"], "cost_s": found.of_image, "cost_im": found.of_text,
            **gradients(given)}


def dot() -> Matcher:
    """A matcher whose score is the dot product; its weights play no part."""
    return vsrn.Vsrn(vsrn.Config(vocab_size=4, img_dim=2, embed_size=2, word_dim=2, caption_weight=0))


def parts(out: MatchOut, settings: Config) -> Tensors:
    """The loss, sent backward, and all that went into it."""
    found = triplet.rivals(out, settings.margin_online, settings.mask_same_image)
    paid, weights = costs(found, out.offline, settings)
    loss = torch.stack([cost.sum() for cost in paid]).sum()
    loss.backward()
    offline = out.offline
    return {
        "loss": loss, "scores": out.scores["match"], "pos": found.match, "i2thnoff": offline.text,
        "t2ihnoff": offline.image, "i2thnoff2": offline.both, "t2ihnoff2": offline.kin, "i2thnon": found.of_image,
        "t2ihnon": found.of_text, "cweight": weights.of_image, "iweight": weights.of_text, "cost_s": paid.online_i,
        "cost_im": paid.online_t, "cost_s2": paid.offline_text, "cost_im2": paid.offline_image,
        "cost_s3": paid.offline_both, "cost_im3": paid.offline_kin,
    }  # fmt: skip


def aoq_loss(case: Any) -> Tensors:
    given = differentiable(case.inputs)
    sets = [(Side(pooled=given[f"im{end}"]), Side(pooled=given[f"s{end}"])) for end in ("", "_off", "_off2")]
    return parts(met(dot(), sets), loss_settings(case.config)) | gradients(given)


def bfan_aoq_loss(case: Any) -> Tensors:
    given = differentiable(case.inputs)
    own = {"focal_type": case.config["focal_type"], "lambda_softmax": case.config["lambda_softmax"]}
    matcher = bfan.Bfan(bfan.Config(vocab_size=4, img_dim=2, embed_size=2, word_dim=2, **own))
    sets = []
    for end in ("", "_off", "_off2"):
        regions, words, lengths = (given[f"{name}{end}"] for name in ("regions", "words", "lengths"))
        each = torch.full((len(regions),), regions.shape[1])
        mask = torch.arange(words.shape[1]) < lengths[:, None]
        sets.append((Side(Ragged.of(regions.flatten(0, 1), each)), Side(Ragged.of(words[mask], lengths))))
    return parts(met(matcher, sets), loss_settings(case.config)) | gradients(given)


def offline_sample(case: Any) -> Tensors:
    config, given = case.config, {name: tensor.numpy() for name, tensor in case.inputs.items()}
    captions = config["captions_per_image"]
    images = len(given["i2t"])
    owners = Owners(np.arange(images * captions) // captions, images)
    rank, which = given["draw_rank"], (given["draw_caption"] + 0.5) / captions
    drawn = quintuplets(owners, given["i2t"], given["t2i"], given["caption_index"], rank,
                        rank // config["text_to_image_rank_ratio"], which)
    names = {"text": "caption", "text_off": "caption_off", "text_off2": "caption_off2"}
    return {names.get(name, name): torch.from_numpy(values) for name, values in drawn._asdict().items()}


OPS = {
    "triplet_loss": triplet_loss,
    "aoq_loss": aoq_loss,
    "bfan_aoq_loss": bfan_aoq_loss,
    "offline_sample": offline_sample,
}
