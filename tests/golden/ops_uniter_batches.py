"""UNITER's batch, sampling and retrieval ops: what the loader, the scorer and the recalls give, in published names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches.batch import Batch, Ragged
from data.batches.hard_pools import next_images, token_buckets
from data.batches.pairs import PairIndex, Source
from data.batches.plan import PoolPlan
from data.batches.prefetch_buffer import Capacity, PrefetchBuffer
from data.records.regions import RegionRule
from data.stores.image_store import ImageStore
from data.stores.text_store import TextStore
from model.loading import load
from model.uniter import Config, Uniter, joint_positions
from train.assembly.precision import Precision
from train.distributed.comm import Solo
from train.scoring.recall import rank_images, rank_texts, recalls
from train.scoring.scorer import Scorer

Tensors = dict[str, Tensor]
MEASURES = [f"{side}_{what}" for side in ("txt", "img") for what in ("r1", "r5", "r10", "r_mean")] + ["r_mean"]


def open_pairs(case: Any) -> tuple[PairIndex, ImageStore]:
    names = ("conf_th", "max_bb", "min_bb", "num_bb", "compressed")
    images = ImageStore(case.path(case.config["img_db"]), RegionRule(**{name: case.config[name] for name in names}))
    return PairIndex([Source(TextStore(case.path(case.config["txt_db"])), images)]), images


def chosen_pool(index: PairIndex, kind: str, anchor: str, negatives: Sequence[Sequence[str]]) -> np.ndarray:
    """`[2, candidates]`: images and texts of an anchor's group."""
    text = index.texts.index(anchor)
    image = int(index.owner[text])
    images = [index.images.index(name) for name in negatives[0]] if kind != "i" else []
    texts = [index.texts.index(name) for name in negatives[-1]] if kind != "t" else []
    return np.array([[image, *images, *[image] * len(texts)], [text, *[text] * len(images), *texts]])


def read(index: PairIndex, plan: PoolPlan) -> Batch:
    capacity = Capacity(int(index.regions[plan.images].sum()), int(index.words[plan.texts].sum()))
    slot = PrefetchBuffer(capacity, index, pin=False)
    slot.fill(index, plan)
    return slot.batch(index, plan)


def pair_batch(case: Any) -> Tensors:
    config = case.config
    index, _ = open_pairs(case)
    kind, lists = config["kind"], config["negatives"]
    each = [lists[at : at + 2] for at in range(0, len(lists), 2)] if kind == "rank" else [[one] for one in lists]
    groups = [chosen_pool(index, kind, *one) for one in zip(config["anchor_ids"], each, strict=True)]
    image, text = np.stack(groups, 1)
    batch = read(index, PoolPlan.of(image, text, "t", 0))
    assert batch.pool is not None
    rows_image, rows_text = batch.pool.image.flatten(), batch.pool.text.flatten()
    images = batch.images.select(rows_image[:1] if kind == "i" else rows_image)
    texts = batch.texts.select(rows_text[:1] if kind == "t" else rows_text)
    ids, _ = texts.padded(fill=0)
    features, _ = images.features.padded()
    boxes, _ = Ragged(images.boxes, images.features.offsets).padded()
    out = {
        "input_ids": ids,
        "position_ids": torch.arange(ids.shape[1])[None],
        "img_feat": features.float(),
        "img_pos_feat": boxes,
    }
    count = rows_image.numel()
    words, regions = texts.lengths.expand(count), images.lengths.expand(count)
    if kind == "rank":
        out["sample_size"] = torch.tensor(image.shape[1])
    return out | (concat_layout if config["layout"] == "iais" else gather_layout)(words, regions, kind)


def gather_layout(words: Tensor, regions: Tensor, kind: str) -> Tensors:
    mask, index = padded_positions(words, regions, words.max().expand(len(words)))
    out = {"attn_masks": mask, "gather_index": index}
    if kind == "i":
        out["parity_gather_index"] = padded_positions(words, regions, words[-1].expand(len(words)))[1]
    return out


def concat_layout(words: Tensor, regions: Tensor, kind: str) -> Tensors:
    """Padded text then padded regions, and the real words and regions of the matching pair."""
    place = torch.arange(int(words.max() + regions.max()))
    first = int(words.max())
    text = place < words[:, None]
    region = (place >= first) & (place < first + regions[:, None])
    inner = (place >= 1) & (place < words[0] - 1)
    return {
        "attn_masks": (text | region).long(),
        "txt_attn_masks": inner.long()[None],
        "img_attn_masks": region[:1].long(),
    }


def padded_positions(words: Tensor, regions: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The published padded form of `joint_positions`: the mask, and positions that count on where nothing is."""
    values, mask = joint_positions(words, regions, offset).padded()
    return mask.long(), torch.where(mask, values.long(), torch.arange(mask.shape[1]))


def gather_index(case: Any) -> Tensors:
    words, regions = case.inputs["txt_lens"], case.inputs["num_bbs"]
    count = max(len(words), len(regions))
    return gather_layout(words.expand(count), regions.expand(count), case.config["layout"])


def val_batches(case: Any) -> Tensors:
    index, _ = open_pairs(case)
    place = {name: at for at, name in enumerate(case.config["img_order"])}
    order = torch.tensor([place[name] for name in index.images])
    candidates = next_images(index.owner, len(index.images), case.config["batch_size"])
    return {"image_index": order[torch.from_numpy(candidates)]}


def token_bucket(case: Any) -> Tensors:
    config, lengths = case.config, case.inputs["lens"].numpy()
    batches = token_buckets(
        lengths,
        case.inputs["perm"].numpy(),
        config["batch_size"],
        config["bucket_size"],
        config["size_multiple"],
        config["droplast"],
    )
    widths = torch.tensor([len(batch) for batch in batches])
    packed = Ragged.of(torch.from_numpy(np.concatenate(batches)), widths)
    return {"batches": packed.padded(fill=-1)[0], "batch_lengths": widths}


def eval_scores(case: Any) -> Tensors:
    """The matrix is ours; its rows and columns are put in the order of the published programs."""
    index, store = open_pairs(case)
    fields = {name: value for name, value in case.config["model"].items() if name in Config.model_fields}
    model = Uniter(Config(**fields, img_dim=case.config["img_dim"]))
    load(model, "uniter", case.weights)
    device = torch.device("cpu")
    scorer = Scorer(model, Solo(), device, Precision("off", device).autocast, tokens=1024)
    with tempfile.TemporaryDirectory() as folder:
        matrix = scorer.matrix(index, Path(folder), lambda done, of: None)
    assert matrix is not None
    world = case.config["world"]
    texts = np.concatenate([np.arange(rank, len(index.texts), world) for rank in range(world)])
    images = np.argsort(store.index_counts(index.images), kind="stable")
    place = np.argsort(images)
    ordered = np.ascontiguousarray(matrix[images][:, texts])
    found = recalls(ordered, place[index.owner[texts]], ir_count="legacy")
    scores = torch.from_numpy(ordered.T.copy())
    measures = {f"parity.{name}": torch.tensor(found[name], dtype=torch.float64) for name in MEASURES}
    return {"score_matrix": scores, "score_matrix_fp16": scores.half(), **measures}


def itm_eval(case: Any) -> Tensors:
    scores, owner = case.inputs["score_matrix"].T.numpy(), case.inputs["txt2img"].numpy()
    out: Tensors = {
        "image_rank_of_gt": torch.from_numpy(rank_images(scores, owner, "optimistic")).long(),
        "best_caption_rank": torch.from_numpy(rank_texts(scores, owner, "optimistic")).long(),
    }
    for prefix, count in (("parity", "legacy"), ("fixed", "correct")):
        found = recalls(scores, owner, ir_count=count)  # type: ignore[arg-type]
        out |= {f"{prefix}.{name}": torch.tensor(found[name], dtype=torch.float64) for name in MEASURES}
    return out


def itm_eval_ties(case: Any) -> Tensors:
    scores, owner = case.inputs["score_matrix"].T.numpy(), case.inputs["txt2img"].numpy()
    out: Tensors = {}
    for ties in ("optimistic", "pessimistic"):
        found = recalls(scores, owner, ties=ties)  # type: ignore[arg-type]
        out |= {f"{ties}.{name}": torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
    return out


OPS = {
    "pair_batch": pair_batch,
    "gather_index": gather_index,
    "val_batches": val_batches,
    "token_bucket": token_bucket,
    "eval_scores": eval_scores,
    "itm_eval": itm_eval,
    "itm_eval_ties": itm_eval_ties,
}
