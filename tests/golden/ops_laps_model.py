"""Selection, aggregation, similarities and losses of LAPS on published weights, computed by the product's modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.batches.batch import Ragged
from model import conversion
from model.laps import Aggregation, Laps, captions, count_aggregated, ratio_term, words_of
from model.loading import load, load_part
from model.matcher import Side
from model.objective.triplet import Config as TripletConfig
from model.objective.triplet import Triplet
from model.parts.alignment import SIMILARITIES, aligned
from model.parts.layers import top_mask
from model.parts.slimming import Shapes, match_both_ways, mixing
from tests.golden.run import sibling
from train.assembly.optim import clip
from train.assembly.precision import Precision
from train.distributed.comm import Solo
from train.loop.batch_regime import match_batch, total_loss

shared = sibling("ops_laps")
Tensors = dict[str, Tensor]
NET = "cross_net.aggr_net."


def gradients(total: Tensor, **inputs: Tensor) -> Tensors:
    """`grad.<name>` of each input."""
    found = torch.autograd.grad(total, list(inputs.values()), materialize_grads=True)
    return {f"grad.{name}": grad for name, grad in zip(inputs, found, strict=True)}


def part(weights: Tensors, prefix: str, config: dict[str, Any], width: int, patches: int) -> Laps:
    """A matcher whose towers do not matter, with published weights of what compares."""
    matcher = Laps(shared.settings_of(config | {"embed_size": width, "num_patches": 16}))
    matcher.aggregate = Aggregation(width, patches)
    if weights:
        load_part(matcher, "laps", {prefix + name: tensor for name, tensor in weights.items()})
    return matcher.eval()


def patch_select(case: Any) -> Tensors:
    tokens = case.inputs["tokens"].requires_grad_()
    scores = case.inputs["attention_x"] + case.inputs["attention_y"]
    matcher = part({}, "", case.config, tokens.shape[2], 1)
    count = matcher.rule.kept(tokens.shape[1])
    kept = top_mask(scores, count)
    order = scores.masked_fill(~kept, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :count]
    selected = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2]))
    no_logits = tokens.new_zeros(len(tokens), 0, tokens.shape[1])
    extra = torch.zeros_like(tokens[:, :1])
    if matcher.rule.fuses(tokens.shape[1]):
        extra = mixing(no_logits, scores[:, None], kept[:, None], fused=True)[:, 0] @ tokens
    total = (selected * case.inputs["d_select"]).sum() + (extra * case.inputs["d_extra"]).sum()
    found = {"keep_index": order, "select_tokens": selected, "score_mask": kept.float(), "extra_token": extra}
    return found | gradients(total, tokens=tokens)


def patch_aggregate(case: Any) -> Tensors:
    tokens = case.inputs["tokens"].requires_grad_()
    matcher = part(case.weights, NET, {}, tokens.shape[2], case.config["keeped_patches"])
    assert matcher.aggregate is not None
    kept = case.inputs.get("keep_policy", torch.ones(tokens.shape[:2])).bool()[:, None]
    weights = mixing(matcher.aggregate(tokens), kept.float(), kept, fused=False)
    found = weights[:, 0] @ tokens
    total = (found * case.inputs["d_out"]).sum()
    ours = {f"aggregate.{name}": p for name, p in matcher.aggregate.named_parameters()}
    names = {conversion.published_name("laps", name).removeprefix(NET): p for name, p in ours.items()}
    return {"aggr_tokens": found} | gradients(total, tokens=tokens, **names)


def patch_word_sim(case: Any) -> Tensors:
    tokens, words = case.inputs["img_tokens"].requires_grad_(), case.inputs["words"].requires_grad_()
    rows = case.inputs["img_mask"].bool() if case.config["masked"] else None
    there = torch.ones(len(words), dtype=torch.bool)
    found = match_both_ways(tokens @ words.T, there, rows, case.config["scan"], case.config["i2t"])[:, None]
    return {"sim": found} | gradients((found * case.inputs["d_sim"]).sum(), img_tokens=tokens, words=words)


def sides(inputs: Tensors) -> tuple[Side, Side]:
    """Published token rectangles as the product's sides."""
    images, words = inputs["img_embs"], inputs["cap_embs"]
    lengths = torch.full((len(images),), images.shape[1])
    real = torch.arange(words.shape[1]) < inputs["cap_lens"][:, None]
    return Side(Ragged.of(images.flatten(0, 1), lengths)), Side(Ragged.of(words[real], inputs["cap_lens"]))


def comparing(case: Any) -> Laps:
    """The matcher of a case that brings tokens."""
    width = case.inputs["img_embs"].shape[2]
    wanted = shared.settings_of(case.config | {"num_patches": 16})
    return part(case.weights, "", case.config, width, count_aggregated(wanted, case.config["num_patches"]))


def masks(matcher: Laps, images: Side, texts: Side) -> Tensor:
    """Kept patches `[texts, images, s]` as floats; texts in their own order."""
    order = torch.argsort(texts.rows.lengths, stable=True)
    kept = matcher.look(images, texts.select(order)).kept
    return kept[:, torch.argsort(order)].transpose(0, 1).float()


def patch_scores(case: Any) -> Tensors:
    matcher, (images, texts) = comparing(case), sides(case.inputs)
    pictures = matcher.pictures(images)
    shapes = Shapes.of(pictures)
    found = {"self_score": shapes.significance, "text_score": shapes.asked(captions(texts).queries).transpose(0, 1)}
    has_cls = torch.tensor(int(pictures.whole is not None))
    return {name: t.float() for name, t in found.items()} | {
        "has_cls": has_cls, "score_mask": masks(matcher, images, texts)
    }  # fmt: skip


def sim_matrix(case: Any) -> Tensors:
    inputs = case.inputs
    inputs["img_embs"].requires_grad_(), inputs["cap_embs"].requires_grad_()
    matcher, (images, texts) = comparing(case), sides(inputs)
    found = matcher.score(images, texts)
    if case.config["mode"] != "train":
        return {"sims": found}
    assert matcher.aggregate is not None
    parameters = {
        conversion.published_name("laps", f"aggregate.{name}"): p for name, p in matcher.aggregate.named_parameters()
    }
    tokens = {name: inputs[name] for name in ("img_embs", "cap_embs")}
    grads = gradients((found * inputs["d_sims"]).sum(), **tokens, **parameters)
    return {"sims": found, "score_mask": masks(matcher, images, texts)} | grads


def xattn_score(case: Any) -> Tensors:
    images = case.inputs["img_embs"].requires_grad_()
    found: Tensors = {}
    for kind in case.config["types"]:
        sims = aligned(SIMILARITIES[kind], images, *words_of(sides(case.inputs)[1]))
        (grad,) = torch.autograd.grad((sims * case.inputs["d_sims"]).sum(), images)
        found |= {f"sims.{kind}": sims, f"grad.img_embs.{kind}": grad}
    return found


def ratio_loss(case: Any) -> Tensors:
    return {"loss": ratio_term(case.inputs["score_mask"].mean()[None], case.config["sparse_ratio"])}


def whole(case: Any) -> Laps:
    """The whole matcher of a case with its published weights, in training mode."""
    matcher = Laps(shared.settings_of(case.config))
    load(matcher, "laps", case.weights)
    return matcher.train()


def grads_of(matcher: Laps, names: list[str]) -> Tensors:
    """`grad.<published name>` of the parameters of these published names."""
    ours = dict(matcher.named_parameters())
    found = {name: ours[str(conversion.house_name("laps", name))].grad for name in names}
    return {f"grad.{name}": grad for name, grad in found.items() if grad is not None}


def train_loss(case: Any) -> Tensors:
    matcher, inputs, config = whole(case), case.inputs, case.config
    batch = shared.batch_of(*(inputs[name] for name in ("images", "captions", "lengths", "img_ids")))
    out = match_batch(matcher, batch, Solo(), Precision("off", torch.device("cpu")).autocast)
    alpha = config["warmup_alpha"]
    settings = TripletConfig(margin=config["margin"], max_violation=config["max_violation"], ramp=1.0)
    terms = Triplet(settings)(out, batch, alpha)
    bare = Triplet(settings.model_copy(update={"ramp": 0.0}))(out, batch, alpha)
    loss = total_loss(terms, out.aux, 1)
    loss.backward()
    with torch.no_grad():
        kept = masks(matcher, *(out.images, out.texts))
    found = {
        "sims": out.scores["match"], "score_mask": kept, "align_loss": total_loss(bare, {}, 1),
        "ratio_loss": out.aux["ratio"] / config["ratio_weight"], "loss": loss,
        "total_grad_norm": clip(matcher.parameters(), -1),
    }  # fmt: skip
    return found | grads_of(matcher, config["grads"])


OPS = {
    "patch_select": patch_select, "patch_aggregate": patch_aggregate, "patch_word_sim": patch_word_sim,
    "patch_scores": patch_scores, "sim_matrix": sim_matrix, "xattn_score": xattn_score, "ratio_loss": ratio_loss,
    "train_loss": train_loss,
}  # fmt: skip
