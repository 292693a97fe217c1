"""Lists of offline candidates: for each image the hardest texts, and for each text the hardest images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import DataError
from data.batches.pairs import Array, PairIndex
from data.files import crc_of, open_array, read_json

MANIFEST = "manifest.json"
ORDER = "order"
"""Under which name the manifest tells the order of the stores (see `PairIndex.order_hash`)."""
CHECKSUMS = "crc32c"
"""Under which the CRC32C of each list's file."""
REMEDY = "mine them again with train/mine.py"


@dataclass(frozen=True)
class Candidates:
    """Positions in the order of the stores, hardest first; memory-mapped.

    Attributes:
        i2t, t2i: `[images, k]` texts, `[texts, k]` images, int32.
        manifest: what the mining job wrote of them; empty for lists that came without.
    """

    i2t: Array
    t2i: Array
    manifest: dict[str, Any]

    @property
    def checked(self) -> bool:
        """Whether the manifest vouches for the order that they count in; embeddings mined without stores have none."""
        return self.manifest.get(ORDER) is not None


def open_candidates(folder: Path, index: PairIndex, texts: int, images: int) -> Candidates:
    """The lists in `folder` (`i2t_*.npy` and `t2i_*.npy`), of which `texts` and `images` columns will be used.

    Where no manifest tells their order, as of the published lists, only shapes and ranges are looked at.

    Raises:
        DataError: a list is missing, too narrow, of other stores, or points outside of them.
    """
    if not folder.is_dir():
        raise DataError(f"offline={folder}: there is no such folder; name the one that train/mine.py wrote")
    manifest = read_json(folder / MANIFEST, REMEDY) if (folder / MANIFEST).exists() else {}
    if manifest.get(ORDER) not in (None, index.order_hash):
        raise DataError(f"offline={folder}: mined over other stores, or another order of them; {REMEDY}")
    rows = len(index.images), len(index.texts)
    files = [_only(folder, name) for name in ("i2t", "t2i")]
    i2t = _opened(files[0], rows[0], rows[1], texts, "offline_range")
    t2i = _opened(files[1], rows[1], rows[0], images, "offline_range over offline_rank_ratio")
    for path in files:
        if manifest.get(CHECKSUMS, {}).get(path.name, crc := crc_of(path)) != crc:
            raise DataError(f"{path}: is not the list that was mined, some of it has changed; {REMEDY}")
    return Candidates(i2t, t2i, manifest)


def _only(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}_*.npy"))
    if len(found) != 1:
        raise DataError(f"offline={folder}: holds {len(found)} files {name}_*.npy, one is wanted; {REMEDY}")
    return found[0]


def _opened(path: Path, rows: int, below: int, columns: int, setting: str) -> Array:
    try:
        values: np.ndarray[Any, Any] = open_array(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole list ({error}); {REMEDY}") from error
    if values.ndim != 2 or values.dtype != np.int32:
        raise DataError(f"{path}: {values.dtype} {list(values.shape)} is no list of int32 candidates; {REMEDY}")
    if len(values) != rows:
        raise DataError(f"{path}: has {len(values)} rows but the stores want {rows}; mined over other stores: {REMEDY}")
    if values.shape[1] < columns:
        raise DataError(f"{path}: has {values.shape[1]} columns, {setting} wants {columns}; lower it or {REMEDY}")
    used = values[:, :columns]
    if used.min() < 0 or used.max() >= below:
        raise DataError(f"{path}: points to {used.min()} .. {used.max()}, outside of 0 .. {below - 1}; {REMEDY}")
    return values
