"""Small stores, small models and real commands for the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data.batches.pairs import PairIndex, Source
from data.records.regions import RegionRule
from data.stores.image_store import ImageStore
from data.stores.image_writer import ImageWriter
from data.stores.text_store import TextStore, TextWriter

ROOT = Path(__file__).resolve().parents[1]
DIM, VOCAB, RULE = 16, 60, RegionRule(conf_th=0.2, max_bb=8, min_bb=2)


def write_stores(folder: Path, images: int = 24, captions: tuple[int, ...] = (2, 3, 1), seed: int = 0, name: str = "a",
                 vocab_hash: str = "f" * 64, scale: float = 3.0) -> tuple[Path, Path]:
    """A text and an image store whose captions speak of their images: word 10 + c for a region along axis c.

    Image number n has `captions[n % len(captions)]` captions.
    """
    rng = np.random.default_rng(seed)
    texts, pictures = folder / f"{name}.db", folder / f"{name}_img"
    special = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, VOCAB]}
    with ImageWriter(pictures, rule=RULE) as image_writer, \
            TextWriter(texts, {**special, "vocab_hash": vocab_hash}) as text_writer:
        for number in range(images):
            count = int(rng.integers(2, 8))
            kinds = rng.choice(DIM, count, replace=False)
            features = scale * np.eye(DIM)[kinds] + 0.1 * rng.standard_normal((count, DIM))
            corner = rng.random((count, 2)) * 0.5
            size = 0.1 + 0.4 * rng.random((count, 2))
            boxes = np.concatenate([corner, corner + size, size], 1)
            key = f"{name}_{number:06d}.npz"
            image_writer.add(key, features, boxes, np.full(count, 0.9))
            for which in range(captions[number % len(captions)]):
                words = [10 + int(kind) for kind in rng.permutation(kinds)][: 1 + int(rng.integers(count))]
                record = {"input_ids": words, "img_fname": key, "raw": " ".join(map(str, words))}
                text_writer.add(f"{number}{which}", record)
    return texts, pictures


def open_index(*stores: tuple[Path, Path]) -> PairIndex:
    return PairIndex([Source(TextStore(texts), ImageStore(images, RULE)) for texts, images in stores])


def config_of(stores: tuple[Path, Path], **sections: dict[str, Any]) -> dict[str, Any]:
    """A tiny UNITER run on the given stores, all splits alike."""
    texts, images = map(str, stores)
    kinds = (("txt", texts), ("img", images))
    sides = {f"{split}_{kind}_db": path for split in ("val", "test") for kind, path in kinds}
    base: dict[str, dict[str, Any]] = {
        "data": {"train_txt_dbs": [texts], "train_img_dbs": [images], **sides, "n_workers": 0,
                 "conf_th": RULE.conf_th, "max_bb": RULE.max_bb, "min_bb": RULE.min_bb},
        "negatives": {"negative_size": 7, "hard_neg_size": 3, "mining_batch": 2},
        "optim": {"num_train_steps": 6, "warmup_steps": 2, "learning_rate": 1e-3, "train_batch_size": 4},
        "eval": {"valid_steps": 3, "inf_minibatch_size": 10, "tokens_per_block": 2048},
        "output": {"log_steps": 1, "tensorboard": False},
        "matcher": {"name": "uniter", "vocab_size": VOCAB, "img_dim": DIM, "hidden_size": 16, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 96},
    }
    for name, values in sections.items():
        base.setdefault(name, {}).update(values)
    return base


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path


def environment() -> dict[str, str]:
    """One thread a process, and none of a launcher's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOROVOD_", "OMPI_"))}
    return kept | {"OMP_NUM_THREADS": "1"}


def command(*words: str | Path, ranks: int = 1) -> list[str]:
    """`python words...`, under horovodrun for more than one rank."""
    start = [sys.executable, *map(str, words)]
    return start if ranks == 1 else [str(Path(sys.executable).parent / "horovodrun"), "-np", str(ranks), *start]


def run(*words: str | Path, ranks: int = 1, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run one of the project's programs to its end, from the project's root."""
    return subprocess.run(command(*words, ranks=ranks), cwd=ROOT, env=environment(), capture_output=True, text=True,
                          timeout=timeout, check=False)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind that a run wrote."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]
