"""What a reader of the documentation has and a test has not: pictures, features, captions; drawn or made up instead."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.precomputed import write_precomputed, write_words

FROM_SCENES = {
    ".demo/scenes": ".",
    "scenes": ".",
    "pictures": "pictures",
    "captions.jsonl": "captions.jsonl",
    "vocab.txt": "vocab.txt",
    "bert-base-cased/vocab.txt": "vocab.txt",
    "bert-base-uncased/vocab.txt": "vocab.txt",
}
"""As the pages call it, and which part of a drawn set is put there."""


def stand_ins(scenes: Path) -> dict[str, Callable[[Path], None]]:
    """By the name that the pages call it: what makes it at a path. `scenes` is a set of make_scenes.py."""
    drawn = {name: lambda place, source=scenes / part: copy(source, place) for name, part in FROM_SCENES.items()}
    return drawn | {
        "pictures.tar": lambda place: pack(scenes / "pictures", place),
        "features": lambda place: extract(scenes / "captions.jsonl", place),
        "f30k_precomp": precompute,
        "f30k_precomp_vocab.json": lambda place: write_words(place) and None,
        "vocab/f30k_precomp_vocab.json": lambda place: write_words(place) and None,
    }


def copy(source: Path, place: Path) -> None:
    """A file or a folder at another place."""
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copy(source, place)


def pack(pictures: Path, place: Path) -> None:
    """A tar of pictures."""
    with tarfile.open(place, "w") as archive:
        archive.add(pictures, ".")


def extract(captions: Path, place: Path) -> None:
    """What a detector would have written of each picture: twelve regions of random features."""
    place.mkdir()
    draw = np.random.default_rng(0)
    for line in captions.read_text("utf-8").splitlines():
        corner, size = draw.random((12, 2)) * 0.5, 0.1 + 0.4 * draw.random((12, 2))
        box = np.concatenate([corner, corner + size, size], 1).astype(np.float32)
        np.savez(place / f"{json.loads(line)['image_id']}.npz", features=draw.random((12, 32), np.float32),
                 norm_bb=box, conf=draw.random(12, np.float32))


def precompute(place: Path) -> None:
    """The three splits of a precomputed folder."""
    for seed, split in enumerate(("train", "dev", "test")):
        write_precomputed(place, split, images=24, seed=seed)
