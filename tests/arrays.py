"""Images as an extractor delivers them, for the tests of stores and packers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records.regions import Codec, RegionRule
from data.stores.image_writer import ImageWriter

FLICKR = "flickr30k_{:012d}.npz"


def extracted(seed: int, rows: int = 12, width: int = 8, dtype: Any = np.float16) -> dict[str, NDArray[Any]]:
    """Features, boxes, falling confidences and soft labels of `rows` regions."""
    rng = np.random.default_rng(seed)
    corner = rng.random((rows, 2)) / 2
    size = rng.random((rows, 2)) / 2
    return {
        "norm_bb": np.concatenate([corner, corner + size, size], axis=1).astype(dtype),
        "features": rng.standard_normal((rows, width)).astype(dtype),
        "conf": np.sort(rng.random(rows))[::-1].astype(dtype),
        "soft_labels": rng.random((rows, 5)).astype(dtype),
    }


def write_npz_folder(folder: Path, images: int = 6, **sizes: Any) -> list[str]:
    """An extractor's output folder; returns the file names."""
    folder.mkdir(parents=True)
    names = [FLICKR.format(number) for number in range(images)]
    for number, name in enumerate(names):
        np.savez(folder / name, allow_pickle=False, **extracted(number, **sizes))
    return names


def write_image_store(
    folder: Path, codec: Codec = "native", rule: RegionRule | None = None, images: int = 6, **sizes: Any
) -> list[str]:
    """An image store of `images` images; returns their names."""
    names = [FLICKR.format(number) for number in range(images)]
    with ImageWriter(folder, codec, rule) as writer:
        for number, name in enumerate(names):
            writer.add(name, **extracted(number, **sizes))
    return names
