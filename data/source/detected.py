"""What detectors write of a picture's regions, under whatever names, as image stores want it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from config.errors import DataError
from data.regions import are_shares, box_range, normalise_boxes
from data.source.lines import read_json_text

Arrays = dict[str, NDArray[Any]]

OTHER_NAMES = {
    "features": ("x",),
    "norm_bb": ("bbox", "boxes"),
    "nbb": ("num_bbox", "num_boxes"),
    "conf": ("objects_conf", "cls_conf"),
    "image_w": ("width", "img_w", "image_width"),
    "image_h": ("height", "img_h", "image_height"),
}
"""What our names are called elsewhere."""


class BoxRule(NamedTuple):
    """How boxes are read.

    Attributes:
        pixels: boxes under the name `norm_bb` are in pixels too.
        sizes: width and height of pictures by the name of their image, where a detector's files do not tell them.
    """

    pixels: bool = False
    sizes: Mapping[str, tuple[float, float]] | None = None


def regions_of(arrays: Arrays, image: str, rule: BoxRule, unread: tuple[str, ...] = ()) -> Arrays:
    """A detector's arrays with `features [n, d]` and `norm_bb [n, 6]` under these names.

    Args:
        arrays: boxes are `norm_bb [n, 6]` in shares of width and height, or `[n, 4]` corners in pixels.
        image: its name, for which sizes may be known.
        unread: entries of the file that were not read, for what is said.

    Raises:
        DataError: boxes are in pixels, and nobody says of a picture of which size.
    """
    found = dict(arrays)
    for ours, theirs in OTHER_NAMES.items():
        other = next((name for name in theirs if name in found), None)
        if other and ours not in found:
            found[ours] = found.pop(other)
    width, height = (found.pop(name, None) for name in ("image_w", "image_h"))
    if "norm_bb" not in found or "features" not in found:
        return found
    boxes, features = found["norm_bb"], found["features"]
    if boxes.ndim == 2 and features.ndim == 2 and len(features) != len(boxes) == features.shape[1]:
        found["features"] = features.T  # some extractors write a region a column
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6):
        return found
    if boxes.shape[1] == 4 and not rule.pixels and are_shares(boxes):
        found["norm_bb"] = normalise_boxes(boxes, 1, 1)
    elif boxes.shape[1] == 4 or rule.pixels:
        size = _size(width, height, image, rule)
        if size is None:
            raise DataError(f"has boxes in pixels ({box_range(boxes)}), and nothing says how large its picture is"
                            f"{f' ({unread[0]!r} holds Python objects, which are not read)' if unread else ''}; give "
                            "--image_sizes FILE, a JSON map from image names to [width, height]")  # fmt: skip
        found["norm_bb"] = normalise_boxes(boxes[:, :4], *size)
    return found


def _size(
    width: NDArray[Any] | None, height: NDArray[Any] | None, image: str, rule: BoxRule
) -> tuple[float, float] | None:
    """Width and height of the picture, from its file, or from what is known of all."""
    if rule.sizes is not None and (known := rule.sizes.get(image) or rule.sizes.get(image.removesuffix(".npz"))):
        return known
    if width is None or height is None or width.size != 1 or height.size != 1:
        return None
    return float(width.reshape(-1)[0]), float(height.reshape(-1)[0])


def read_sizes(path: Path) -> dict[str, tuple[float, float]]:
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


def _is_size(size: Any) -> bool:
    return (isinstance(size, list) and len(size) == 2
            and all(isinstance(side, int | float) and not isinstance(side, bool) and side > 0 for side in size))
