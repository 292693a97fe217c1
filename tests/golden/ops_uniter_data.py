"""UNITER's store and region ops: published names in, the product's stores and packers, published names out."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np
import torch
from torch import Tensor

from data.batches.pairs import PairIndex, Source
from data.records.regions import RegionRule, box_features, normalise_boxes
from data.stores.image_store import ImageStore
from data.stores.text_store import TextStore
from scripts import build_imgdb, build_txtdb

Tensors = dict[str, Tensor]

# Outputs of encoder_forward [B, L, ...] are compared where this input is 1.
MASKS = dict.fromkeys(("embedding_output", "layer0_output", "sequence_output"), "attn_masks")


def num_bb(case: Any) -> Tensors:
    confs, lengths = case.inputs["confs"].clone(), case.inputs["lengths"]
    confs[torch.arange(confs.shape[1]) >= lengths[:, None]] = -torch.inf
    counts = [RegionRule(**setting).count(confs.numpy()) for setting in case.config["settings"]]
    return {"num_bb": torch.from_numpy(np.stack(counts))}


def box_feature(case: Any) -> Tensors:
    boxes = normalise_boxes(case.inputs["boxes_xyxy"].numpy(), case.config["image_w"], case.config["image_h"])
    stored = boxes.astype(np.float16)
    return {"norm_bb": torch.from_numpy(stored), "img_pos_feat": torch.from_numpy(box_features(stored))}


def image_store(case: Any) -> ImageStore:
    names = ("conf_th", "max_bb", "min_bb", "num_bb", "compressed")
    rule = RegionRule(**{name: case.config[name] for name in names})
    return ImageStore(case.path(case.config["img_db"]), rule)


def store_read_images(case: Any) -> Tensors:
    store = image_store(case)
    out: Tensors = {}
    counts, noted = store.counts(store.names), store.index_counts(store.names)
    for name, count, index in zip(store.names, counts, noted, strict=True):
        features, boxes = np.empty((count, store.dim), np.float32), np.empty((count, 7), np.float32)
        store.read_into(name, features, boxes)
        out[f"{name}/features"], out[f"{name}/img_pos_feat"] = (
            torch.from_numpy(features),
            torch.from_numpy(boxes),
        )
        out[f"{name}/nbb"], out[f"{name}/name2nbb"] = torch.tensor(count), torch.tensor(index)
    return out


def store_read_texts(case: Any) -> tuple[Tensors, dict[str, Any]]:
    config = case.config
    texts, images = TextStore(case.path(config["txt_db"])), image_store(case)
    index = PairIndex([Source(texts, images)])
    kept = index.anchors(config["max_txt_len"])
    ids = [texts.ids[at] for at in kept]
    first = np.empty(index.words[kept[0]], np.int64)
    index.read_texts(kept[:1], first)
    lengths = torch.from_numpy(texts.lengths[kept])
    special, numbers = texts.special, as_numbers(ids)
    out = {
        "ids": numbers,
        "input_ids": padded([texts.tokens(id) for id in ids]),
        "lengths": lengths,
        "special": torch.tensor([special.cls, special.sep, special.mask, *special.v_range]),
        "combined_first": torch.from_numpy(first),
        "joint_lens": lengths + torch.from_numpy(images.index_counts([texts.images[at] for at in kept])),
    }
    for rank in range(config["world"]):
        out[f"rank{rank}.ids"] = numbers[rank :: config["world"]]
        out[f"rank{rank}.lens"] = lengths[rank :: config["world"]]
    return out, {id: texts.record(id) for id in ids}


def as_numbers(ids: Sequence[str]) -> Tensor:
    return torch.tensor([int(id) for id in ids])


def padded(rows: Sequence[Any]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)


def pack_images(case: Any) -> Tensors:
    """Packs with the program, then reads what it wrote with lmdb, msgpack and numpy alone."""
    config = case.config
    flags = [f"--{name}={config[name]}" for name in ("conf_th", "max_bb", "min_bb", "num_bb") if name in config]
    flags += ["--keep_all"] if config.get("keep_all") else []
    codec = "compressed" if config["compressed"] else "published"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        arguments = [
            "npz",
            str(case.path(config["raw"])),
            f"--output={folder}",
            f"--codec={codec}",
            "--workers=1",
        ]
        build_imgdb.main([*arguments, *flags])
        records = entries(Path(folder) / config["expected_db_name"])
        noted_in = config["expected_nbb_json"]
        noted = json.loads((Path(folder) / noted_in).read_text()) if noted_in else {}
    names = json.loads(records["__keys__"])
    out = {"n_entries": torch.tensor(len(records)), "n_keys": torch.tensor(len(names))}
    for name in names:
        arrays = read_npz(records[name]) if config["compressed"] else read_msgpack(records[name])
        out |= {f"{name}/raw.{key}": torch.from_numpy(array) for key, array in arrays.items()}
    return out | {f"{name}/nbb": torch.tensor(count) for name, count in noted.items()}


def entries(folder: Path) -> dict[str, bytes]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as reader:
        return {key.decode(): value for key, value in reader.cursor()}


def read_npz(value: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(value), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def read_msgpack(value: bytes) -> dict[str, Any]:
    arrays = msgpack.unpackb(value, strict_map_key=False)
    return {
        name: np.frombuffer(array[b"data"], array[b"type"]).reshape(array[b"shape"]).copy()
        for name, array in arrays.items()
    }


def pack_texts(case: Any) -> tuple[Tensors, dict[str, Any]]:
    """Packs with the program, then reads what it wrote with lmdb, lz4 and msgpack alone."""
    config = case.config
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        output = Path(folder) / "packed.db"
        arguments = [
            f"--annotations={case.path(config['annotation'])}",
            f"--vocab={case.path(config['vocab'])}",
        ]
        arguments += [f"--image_naming={config['image_naming']}", f"--output={output}", "--workers=1"]
        build_txtdb.main([*arguments, *(["--lower_case"] if config["lower_case"] else [])])
        stored = entries(output)
        side = {name: json.loads((output / f"{name}.json").read_text()) for name in ("id2len", "txt2img", "img2txts")}
        meta = json.loads((output / "meta.json").read_text())
    records = {id: msgpack.unpackb(lz4.frame.decompress(value)) for id, value in stored.items()}
    ids = list(side["id2len"])
    tensors = {
        "ids": as_numbers(ids),
        "input_ids": padded([records[id]["input_ids"] for id in ids]),
        "lengths": torch.tensor([len(records[id]["input_ids"]) for id in ids]),
        "n_entries": torch.tensor(len(stored)),
    }
    special = {name: meta[name] for name in ("UNK", "CLS", "SEP", "MASK", "v_range")}
    return tensors, {"records": records, **side, "meta": special}


OPS = {
    "num_bb": num_bb,
    "box_feature": box_feature,
    "store_read_images": store_read_images,
    "store_read_texts": store_read_texts,
    "pack_images": pack_images,
    "pack_texts": pack_texts,
}
