"""Detector output under its various names, converted to the arrays of an image store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.records.regions import are_shares, box_range, normalise_boxes
from data.source.lines import read_json_text

Arrays = dict[str, NDArray[Any]]
Size = tuple[float, float]

OTHER_NAMES = {
    "features": ("x",),
    "norm_bb": ("bbox", "boxes"),
    "nbb": ("num_bbox", "num_boxes"),
    "conf": ("objects_conf", "cls_conf"),
    "image_w": ("width", "img_w", "image_width"),
    "image_h": ("height", "img_h", "image_height"),
}
"""What our names are called elsewhere."""
ROUNDED = 0.1
"""A box in pixels may lie so far outside of its picture, as a share of that; further, and the size is of another."""


class BoxRule(NamedTuple):
    """How the boxes of a picture are read.

    Attributes:
        pixels: boxes under the name `norm_bb` are in pixels too.
        size: width and height of the picture, in place of what the detector's file says.
    """

    pixels: bool = False
    size: Size | None = None


def regions_of(arrays: Arrays, rule: BoxRule, unread: tuple[str, ...] = ()) -> Arrays:
    """A detector's arrays with `features [n, d]` and `norm_bb [n, 6]` under these names.

    Args:
        arrays: boxes are `norm_bb [n, 6]` in shares of width and height, or `[n, 4]` corners, in pixels or shares.
        unread: entries of the file that were not read, for what is said.

    Raises:
        DataError: boxes are in pixels, and nobody says of a picture of which size; or they do not fit that.
    """
    found = dict(arrays)
    for ours, theirs in OTHER_NAMES.items():
        other = next((name for name in theirs if name in found), None)
        if other and ours not in found:
            found[ours] = found.pop(other)
    told = [found.pop(name, None) for name in ("image_w", "image_h")]
    if unread and not {"features", "norm_bb"} <= found.keys():
        raise DataError(f"holds {', '.join(found) or 'nothing'} and Python objects ({', '.join(unread)}), which are "
                        "not read; save features and boxes as plain arrays")  # fmt: skip
    if "norm_bb" not in found or "features" not in found:
        return found
    boxes, features = found["norm_bb"], found["features"]
    if boxes.ndim == 2 and features.ndim == 2 and len(features) != len(boxes) == features.shape[1]:
        found["features"] = features.T  # some extractors write a region a column
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6) or boxes.dtype.kind not in "fiu" or not np.isfinite(boxes).all():
        return found
    if boxes.shape[1] == 4 and not rule.pixels and are_shares(boxes):
        found["norm_bb"] = _normalised(boxes, (1, 1))
    elif boxes.shape[1] == 4 or rule.pixels:
        size = rule.size or _size(told)
        if size is None:
            raise DataError(f"has boxes in pixels ({box_range(boxes)}), and nothing says how large its picture is"
                            f"{f' ({unread[0]!r} holds Python objects, which are not read)' if unread else ''}; give "
                            "--image_sizes FILE, a JSON map from image names to [width, height]")  # fmt: skip
        found["norm_bb"] = _normalised(boxes, size)
    return found


def _size(told: list[Any]) -> Size | None:
    """Width and height of the picture as its file tells them."""
    values = [np.asarray(side).reshape(-1) for side in told if side is not None]
    if len(values) < 2 or any(side.size != 1 or side.dtype.kind not in "fiu" for side in values):
        return None
    width, height = (float(side[0]) for side in values)
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise DataError(f"is of a picture of {width:g} x {height:g}; mend its width and height")
    return width, height


def _normalised(boxes: NDArray[Any], size: Size) -> NDArray[np.float32]:
    """`norm_bb [n, 6]` of corners within a picture of that size."""
    corners = boxes[:, :4].astype(np.float32)
    if (corners[:, 2:] < corners[:, :2]).any():
        raise DataError("has boxes that end before they begin; give corners x1, y1, x2, y2, not widths and heights")
    shares = normalise_boxes(corners, *size)
    if size != (1, 1) and len(boxes) and shares[:, :4].max() > 1 + ROUNDED:
        width, height = size
        raise DataError(f"has boxes that go to {corners[:, 2].max():g} x {corners[:, 3].max():g} in a picture of "
                        f"{width:g} x {height:g}; if width and height are swapped or another picture's, give "
                        "--image_sizes FILE")  # fmt: skip
    return shares


def read_sizes(path: Path) -> dict[str, Size]:
    """Sizes of pictures by image name, from a JSON file.

    Raises:
        DataError: it is no map from names to [width, height].
    """
    content = read_json_text(path)
    told = "no map from image names to [width, height] in pixels; give such a JSON object"
    if not isinstance(content, dict):
        raise DataError(f"{path}: is {told}")
    wrong = [name for name, size in content.items() if not _is_size(size)]
    if wrong:
        raise DataError(f"{path}: {len(wrong)} sizes are none, such as that of {wrong[0]!r}: it is {told}")
    return {name: (float(size[0]), float(size[1])) for name, size in content.items()}


def size_of(image: str, sizes: Mapping[str, Size]) -> Size | None:
    """What `read_sizes` tells of an image, under its name or that of its picture."""
    return sizes.get(image) or sizes.get(image.removesuffix(".npz"))


def _is_size(size: Any) -> bool:
    return (isinstance(size, list) and len(size) == 2
            and all(isinstance(side, int | float) and not isinstance(side, bool) and 0 < side < math.inf
                    for side in size))  # fmt: skip
