"""UNITER's model, loss and training ops: published names in, the product's own functions, published names out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from config.sections import Optim
from data.batches.batch import Batch, Direction, Images, Pool, Ragged
from model import conversion
from model.loading import load, load_to_score
from model.objective.hinge import Config as HingeConfig
from model.objective.hinge import Hinge, ranking_hinge
from model.parts.transformer import Packing
from model.uniter import Config, Joint, Uniter
from train.assembly.optim import AdamW, learning_rate, parameter_groups, set_learning_rate
from train.loop.step import compute_losses, hardest_negatives, mine_hard_negatives
from train.loop.trainer import clip

Tensors = dict[str, Tensor]


def no_cast() -> Any:
    return torch.autocast("cpu", enabled=False)


def build(case: Any, **settings: Any) -> Uniter:
    fields = {name: value for name, value in case.config["model"].items() if name in Config.model_fields}
    torch.manual_seed(0)
    model = Uniter(Config(**fields, img_dim=case.config["img_dim"], **settings))
    if case.weights:
        load(model, "uniter", case.weights)
    return model.eval()


def published_grads(model: Uniter) -> Tensors:
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {f"grad.{name}": grad for name, grad in conversion.to_published("uniter", grads).items()}


class Rows:
    """A published padded batch, read back into pairs: which words, which regions, and where the regions were put."""

    def __init__(self, tensors: Tensors) -> None:
        self.ids = tensors["input_ids"]
        mask, gather = tensors["attn_masks"], tensors.get("gather_index")
        count, width = len(mask), self.ids.shape[1]
        words = (self.ids != 0).sum(1).expand(count)
        if gather is None:
            regions = mask[:, width:].sum(1)
            offset = torch.full((count,), width)
        else:
            regions = mask.sum(1) - words
            offset = gather.gather(1, words[:, None].clamp(max=gather.shape[1] - 1))[:, 0]
        self.words, self.regions, self.width = words, regions, width
        self.frame = torch.stack([torch.full((count,), width), offset], 1)
        self.text = torch.arange(count) if len(self.ids) == count else torch.zeros(count, dtype=torch.int64)
        one_image = len(tensors["img_feat"]) != count
        self.image = torch.zeros(count, dtype=torch.int64) if one_image else torch.arange(count)
        stored = regions.max()[None] if one_image else regions
        keep = torch.arange(tensors["img_feat"].shape[1]) < stored[:, None]
        features = Ragged.of(tensors["img_feat"][keep], stored)
        self.images = Images(features, tensors["img_pos_feat"][keep])
        self.masked = tensors["img_masks"][keep].float() if "img_masks" in tensors else None
        lengths = words[: len(self.ids)]
        self.texts = Ragged.of(self.ids[torch.arange(width) < lengths[:, None]], lengths)

    def batch(self, groups: int = 1) -> Batch:
        frame = self.frame.view(groups, -1, 2)[:, 0]
        direction: Direction = "i" if len(self.images) == 1 else "t"
        pool = Pool(self.image.view(groups, -1), self.text.view(groups, -1), frame, direction)
        return Batch(self.images, self.texts, torch.arange(len(self.images)), torch.full((len(self.texts),), -1), pool)

    @property
    def offset(self) -> str:
        """The collation that the case carries, named by the product's own switch."""
        return "correct" if bool((self.frame[:, 0] == self.frame[:, 1]).all()) else "last_caption"

    def joint(self, model: Uniter) -> Joint:
        images = model.encode_image(self.images, self.masked).rows
        return Joint.of(model.encode_text(self.texts).rows, images, self.text, self.image)


def padded(tokens: Tensor, packing: Packing, place: Tensor, mask: Tensor) -> Tensor:
    """Packed states where a padded layout has its real positions."""
    out = tokens.new_zeros(*mask.shape, tokens.shape[1])
    out[mask.bool()] = Ragged.of(tokens, packing.lengths).select(place).values
    return out


@torch.no_grad()
def encoder_forward(case: Any) -> Tensors:
    model, rows = build(case), Rows(case.inputs)
    joint = rows.joint(model)
    x, packing, qkv = model.embedded(joint)
    states = list(model.encoder.states(x, packing, qkv))
    pooled = model.pooled(joint)
    named = {"embedding_output": x, "layer0_output": states[0], "sequence_output": states[-1]}
    out = {name: padded(state, packing, joint.place, case.inputs["attn_masks"]) for name, state in named.items()}
    return out | {"pooled": pooled, "itm_scores": model.match(pooled), "rank_scores": model.rank(pooled)}


def load_pretrained(case: Any) -> Tensors:
    model = build(case)
    load_to_score(model, "uniter", {name.removeprefix("ckpt."): t for name, t in case.inputs.items()})
    return conversion.to_published("uniter", model.state_dict())


def rank_loss(case: Any) -> Tensors:
    scores = case.inputs["rank_scores"].clone().requires_grad_()
    loss = ranking_hinge(scores.view(-1, case.config["sample_size"]), case.config["margin"])
    loss.mean().backward()
    return {"loss": loss.detach(), "loss_mean": loss.mean().detach(), "grad.rank_scores": scores.grad}


def rank_loss_model(case: Any) -> Tensors:
    rows = Rows(case.inputs)
    model, batch = build(case), rows.batch(len(rows.text) // case.config["sample_size"])
    loss = ranking_hinge(model(batch).scores["match"], case.config["margin"])
    loss.mean().backward()
    return {"loss": loss.detach(), "loss_mean": loss.mean().detach(), **published_grads(model)}


def hard_neg_select(case: Any) -> Tensors:
    return {"hard_indices": hardest_negatives(case.inputs["scores"].view(1, -1), case.config["hard_neg_size"])[0]}


def hard_neg_step(case: Any) -> Tensors:
    rows, config = Rows(case.inputs), case.config
    model = build(case, hn_image_gather_offset=rows.offset)
    hard, scores = mine_hard_negatives(model, rows.batch(), config["hard_neg_size"], no_cast)
    columns = hardest_negatives(scores, config["hard_neg_size"])[0]
    loss = ranking_hinge(model(hard).scores["match"], config["margin"])
    loss.mean().backward()
    pool = hard.pool
    lengths = hard.texts.lengths[pool.text] + hard.images.lengths[pool.image]
    length = lengths.max() if config["direction"] == "t" else torch.tensor(case.inputs["attn_masks"].shape[1])
    return {
        "mining_scores": scores.view(-1, 1),
        "hard_indices": columns,
        "loss": loss.detach(),
        "loss_mean": loss.mean().detach(),
        "hard_seq_len": length,
        **published_grads(model),
    }


def adamw_steps(case: Any) -> Tensors:
    config, inputs = case.config, case.inputs
    published = [name.removeprefix("init.") for name in inputs if name.startswith("init.")]
    parameters = {name: torch.nn.Parameter(inputs[f"init.{name}"].clone()) for name in published}
    named = [(conversion.house_name("uniter", name) or name, p) for name, p in parameters.items()]
    groups = parameter_groups(named, config["weight_decay"], Uniter.decayed_norms)
    optimizer = AdamW(groups, 0.0, tuple(config["betas"]), config["eps"], correct_bias=config["correct_bias"])
    out = {}
    for step, rate in enumerate(config["lrs"]):
        for name, parameter in parameters.items():
            parameter.grad = inputs.get(f"grad{step}.{name}")
        set_learning_rate(optimizer, rate)
        optimizer.step()
        out |= {f"step{step}.{name}": p.detach().clone() for name, p in parameters.items()}
    return out


def optim_config(config: dict[str, Any]) -> Optim:
    known = {name: config[name] for name in Optim.model_fields if name in config}
    return Optim(**{"warmup_steps": 0} | known)


def lr_sched(case: Any) -> Tensors:
    config = optim_config(case.config)
    rates = [learning_rate(config, step) for step in case.inputs["steps"].tolist()]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


def train_trajectory(case: Any) -> Tensors:
    """Ranks are simulated: gradients of all of them are summed, then divided as an average over ranks is."""
    config = case.config
    optim = optim_config({**config, "num_train_steps": config["num_train_steps"]})
    model = build(case)
    groups = parameter_groups(model.named_parameters(), config["weight_decay"], Uniter.decayed_norms)
    optimizer = AdamW(groups, 0.0, tuple(config["betas"]), config["eps"])
    objective = Hinge(HingeConfig(margin=config["margin"]))
    losses, norms, rates = [], [], []
    for step in range(1, config["steps"] + 1):
        row = []
        for rank in range(config["world"]):
            for part in range(config["train_batch_size"]):
                for direction in "it":
                    prefix = f"s{step}.r{rank}.a{part}.{direction}."
                    tensors = {n.removeprefix(prefix): t for n, t in case.inputs.items() if n.startswith(prefix)}
                    hard, _ = mine_hard_negatives(model, Rows(tensors).batch(), config["hard_neg_size"], no_cast)
                    loss = compute_losses(model, objective, hard, 0.0, no_cast, config["train_batch_size"]).total
                    (loss / config["world"]).backward()
                    row.append(loss.detach())
        rates.append(learning_rate(optim, step))
        norms.append(clip(model.parameters(), config["grad_norm"]) if config["grad_norm"] != -1 else torch.tensor(0.0))
        set_learning_rate(optimizer, rates[-1])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(torch.stack(row))
    final = conversion.to_published("uniter", model.state_dict())
    return {
        "losses": torch.stack(losses),
        "grad_norms": torch.stack(norms),
        "lrs": torch.tensor(rates, dtype=torch.float64),
        **{f"final.{name}": tensor for name, tensor in final.items()},
    }


OPS = {
    "encoder_forward": encoder_forward,
    "load_pretrained": load_pretrained,
    "rank_loss": rank_loss,
    "rank_loss_model": rank_loss_model,
    "hard_neg_select": hard_neg_select,
    "hard_neg_step": hard_neg_step,
    "adamw_steps": adamw_steps,
    "lr_sched": lr_sched,
    "train_trajectory": train_trajectory,
}
