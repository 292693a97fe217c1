"""The description of an image store, and whether its records agree with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.records.image_record import DTYPES
from data.records.regions import are_shares, box_range

REMEDY = "pack the store again"


def noted_boxes(path: Path, meta: Mapping[str, Any]) -> bool:
    """Whether a store says that its records have boxes; others' stores, which say nothing, have them.

    Raises:
        DataError: it says neither yes nor no.
    """
    noted = meta.get("has_boxes", True)
    if not isinstance(noted, bool):
        raise DataError(f"{path}/meta.json: has_boxes {noted!r} is neither true nor false; {REMEDY}")
    return noted


def noted_dtype(path: Path, meta: Mapping[str, Any]) -> np.dtype[Any]:
    """The type that a store says its features have; float16 where it says nothing.

    Raises:
        DataError: there is no such type.
    """
    noted = meta.get("dtype", "float16")
    if noted not in DTYPES:
        raise DataError(f"{path}/meta.json: dtype {noted} is none of {', '.join(DTYPES)}; {REMEDY}")
    return np.dtype(noted)


def misfit(
    features: NDArray[Any],
    boxes: NDArray[Any] | None,
    dim: int | None,
    dtype: np.dtype[Any] | None,
    has_boxes: bool,
    noted: int = 0,
) -> str:
    """Why a record is none of a store, and what helps, in words that go on from its name; empty where it is one.

    Args:
        dim, dtype: of the store's features; None where that is not known.
        noted: its number of regions, where that is to be compared.
    """
    if noted > len(features):
        return f"holds {len(features)} regions, but {noted} are noted; {REMEDY}"
    if dim is not None and features.shape[1] != dim:
        return f"has features {features.shape[1]} wide, the store's first image {dim}; {REMEDY}"
    if dtype is not None and not np.can_cast(features.dtype, dtype):
        return f"has features of {features.dtype}, which {dtype} of meta.json cannot hold; {REMEDY}"
    if boxes is None and has_boxes:
        return f"has no boxes, but meta.json does not say that there are none (has_boxes: false); {REMEDY}"
    shares = None if boxes is None else boxes[:, :6]
    if shares is not None and np.isfinite(shares).all() and not are_shares(shares):
        return (f"has boxes {box_range(shares)}, not shares of width and height from 0 to 1; pack it again with "
                "build_imgdb.py npz --pixel_boxes")  # fmt: skip
    return ""
