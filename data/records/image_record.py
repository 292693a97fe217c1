"""The record of an image in any layout, encoded from the checked arrays of an extractor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.records import codec as formats
from data.records.native_record import encode_native
from data.records.regions import Codec, RegionRule, are_shares, box_features, box_range, cut_regions

DTYPES = ("float16", "float32")
REGIONS = ("features", "norm_bb", "conf")
"""Arrays of numbers, a row a region."""
TURNED = 1e-3
"""So far below 0 a box's width or height may be rounded."""
NOT_FINITE = "holds numbers that are not finite"


def encode_image(
    arrays: Mapping[str, NDArray[Any]], rule: RegionRule, codec: Codec, keep_all: bool = False, dtype: str = "float16"
) -> tuple[bytes, int]:
    """One extractor's arrays as a record, and the region count to note; pure, so any process may run it.

    Args:
        arrays: `features [n, d]`, `norm_bb [n, 6]`, `conf [n]` or `[n, 1]`; published layouts keep the rest.
        dtype: of a native record; float32 keeps every bit of features and boxes.

    Raises:
        DataError: an array is missing, they disagree on n, numbers are not finite, or no region is left.
    """
    _check(arrays, rule, keep_all)
    kept, count = cut_regions(arrays, rule, keep_all)
    rows = len(kept["features"])
    if rows == 0:
        raise DataError("holds no region")
    if dtype == "float32":
        kept |= {name: arrays[name][:rows].astype(np.float32) for name in ("features", "norm_bb")}
    for name in REGIONS:
        if name in kept and not np.isfinite(kept[name]).all():
            too_large = np.isfinite(arrays[name][:rows]).all()
            raise DataError(f"{NOT_FINITE}{' in half precision' if too_large else ''} ({name})")
    if codec == "native":
        conf = kept["conf"].reshape(-1) if "conf" in kept else np.ones(rows)
        boxes = box_features(kept["norm_bb"])
        return encode_native(kept["features"], boxes, conf, dtype == "float32"), min(count, rows)
    return (formats.encode_npz if codec == "compressed" else formats.encode_published)(kept), count


def encode_features(features: NDArray[Any], dtype: str = "float16") -> bytes:
    """Features [n, d] alone, without boxes, as a native record of float16 or float32.

    Raises:
        DataError: they are no rows of features, or numbers are not finite in that type.
    """
    if features.ndim != 2 or not features.size:
        raise DataError(f"features {list(features.shape)} are no rows of features")
    with np.errstate(over="ignore"):  # too large for half precision: infinite, which is refused below
        typed = features.astype(dtype)
    if not np.isfinite(typed).all():
        too_large = np.isfinite(features).all()
        raise DataError("holds numbers too large for float16; keep float32" if too_large else NOT_FINITE)
    return encode_native(typed, None, np.ones(len(typed)), single=dtype == "float32")


def _check(arrays: Mapping[str, NDArray[Any]], rule: RegionRule, keep_all: bool) -> None:
    needed = ["features", "norm_bb"] + ([] if keep_all or rule.is_fixed else ["conf"])
    missing = [name for name in needed if name not in arrays]
    if missing:
        remedy = "; give --conf_th -1 or --keep_all, which need none" if missing == ["conf"] else ""
        raise DataError(f"holds no {' and no '.join(missing)}, but {', '.join(arrays) or 'nothing'}{remedy}")
    odd = [f"{name} of {arrays[name].dtype}" for name in REGIONS if name in arrays and arrays[name].dtype.kind != "f"]
    if odd:
        raise DataError(f"holds {', '.join(odd)}, not of floating numbers; extract it again")
    features, boxes = arrays["features"], arrays["norm_bb"]
    conf = arrays.get("conf", np.ones(features.shape[:1]))
    if features.ndim != 2 or not features.shape[1] or boxes.shape != (len(features), 6) or conf.size != len(features):
        raise DataError(f"features {features.shape}, boxes {boxes.shape}, conf {conf.shape} do not agree")
    if keep_all and "nbb" in arrays:
        _check_number(arrays["nbb"])
    if np.isfinite(boxes).all() and not are_shares(boxes):
        raise DataError(f"has boxes {box_range(boxes)}, not shares of width and height from 0 to 1; --pixel_boxes of "
                        "build_imgdb.py converts pixels")  # fmt: skip
    if (boxes[:, 4:] < -TURNED).any():
        raise DataError("has boxes that end before they begin; give x1, y1, x2, y2, width and height as shares")


def _check_number(nbb: NDArray[Any]) -> None:
    is_number = nbb.size == 1 and nbb.dtype.kind in "iuf"
    if not (is_number and nbb.reshape(-1)[0] >= 1 and float(nbb.reshape(-1)[0]).is_integer()):
        raise DataError(f"has {nbb.tolist()!r} as its number of regions (nbb, num_bbox); give a whole number from 1")
