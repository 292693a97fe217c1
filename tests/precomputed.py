"""Folders of precomputed data as they are published, made up and small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.words.vocabulary import SPECIAL_WORDS, Vocabulary

WORDS = ("a", "man", "dog", "runs", ".", "red", "two", "can", "``", "''")
NAMES = ("Dog", "man", "Two", "red")


def features(images: int, regions: int = 4, width: int = 6, seed: int = 0) -> NDArray[np.float32]:
    """Random features [images, regions, width] with bits that half precision does not hold."""
    return np.random.default_rng(seed).standard_normal((images, regions, width)).astype(np.float32)


def caption(position: int) -> str:
    """A caption that tells its place."""
    return f"A {NAMES[position % 4]} runs, number {position} ."


def write_precomputed(folder: Path, split: str = "train", images: int = 6, redundant: bool = False,
                      ids_each: int | None = 1, seed: int = 0, each: int = 5, **sizes: Any) -> NDArray[np.float32]:
    """`<split>_ims.npy`, `_caps.txt`, `_ids.txt` and `_precaps.txt`; returns the features, one row an image.

    redundant: a row for each caption; ids_each: lines an image in the ids file, none without; each: captions an image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = features(images, seed=seed, **sizes)
    np.save(folder / f"{split}_ims.npy", np.repeat(rows, each, axis=0) if redundant else rows)
    captions = [caption(position) for position in range(each * images)]
    (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in captions), encoding="utf-8")
    if ids_each:
        lines = [f"{1000 - image}\n" for image in range(images) for _ in range(ids_each)]
        (folder / f"{split}_ids.txt").write_text("".join(lines))
    precaps = [f"1,4,{5 + position % 4},7,2\n" for position in range(each * images)]
    (folder / f"{split}_precaps.txt").write_text("".join(precaps))
    return rows


def write_words(path: Path) -> Path:
    """A vocabulary of these captions."""
    Vocabulary((*SPECIAL_WORDS, *WORDS)).save(path)
    return path
