"""Rules for the number of regions of an image, the folder names of these rules, and box features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from config.errors import ConfigError

Codec = Literal["native", "published", "compressed"]
FIXED = -1.0
BEYOND = 0.5
"""A box may lie so far outside of its picture, as a share of that; further, and it is in pixels."""


@dataclass(frozen=True)
class RegionRule:
    """Which regions of an image are used: those above a confidence, or a fixed number (`conf_th` -1)."""

    conf_th: float = 0.2
    max_bb: int = 100
    min_bb: int = 10
    num_bb: int = 36
    compressed: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_bb <= self.max_bb or self.num_bb < 1:
            raise ConfigError(
                f"min_bb {self.min_bb}, max_bb {self.max_bb}, num_bb {self.num_bb}: "
                "give 1 <= min_bb <= max_bb and num_bb >= 1"
            )
        if not (self.is_fixed or 0 <= self.conf_th <= 1):
            raise ConfigError(f"conf_th {self.conf_th:g}: give a confidence from 0 to 1, or -1 for num_bb regions")

    @property
    def is_fixed(self) -> bool:
        """True where every image counts as `num_bb` regions."""
        return self.conf_th == FIXED

    def _suffix(self) -> str:
        if self.is_fixed:
            return f"numbb{self.num_bb}"
        return f"th{float(self.conf_th)}_max{self.max_bb}_min{self.min_bb}"

    def folder_name(self, codec: Codec, keep_all: bool = False) -> str:
        """The LMDB folder below `img_db/<split>/` that is written with this rule."""
        if codec == "native":
            return "native_all" if keep_all else f"native_{self._suffix()}"
        tail = "_compressed" if codec == "compressed" else ""
        return f"all{tail}" if keep_all else f"feat_{self._suffix()}{tail}"

    def count_file(self, keep_all: bool = False) -> str | None:
        """The JSON file of region counts beside that folder; none where the number is fixed."""
        if keep_all:
            return "nbb.json"
        return None if self.is_fixed else f"nbb_{self._suffix()}.json"

    def count(self, conf: ArrayLike) -> NDArray[np.int64]:
        """min(max_bb, max(min_bb, #(conf > conf_th))) over the last axis; may exceed the regions there are.

        The threshold is rounded to the confidences' own type first: for float16, 0.2 means 0.19995. Pad rows
        of unequal length with -inf.
        """
        values = np.asarray(conf)
        above = np.count_nonzero(values > values.dtype.type(self.conf_th), axis=-1)
        return np.clip(above, self.min_bb, self.max_bb).astype(np.int64)


def normalise_boxes(boxes: ArrayLike, width: float, height: float) -> NDArray[np.float32]:
    """norm_bb [n, 6] = x1/W, y1/H, x2/W, y2/H, w/W, h/H from pixel boxes [n, 4] = x1, y1, x2, y2."""
    scaled = np.asarray(boxes, dtype=np.float32) / np.array([width, height, width, height], dtype=np.float32)
    return np.concatenate([scaled, scaled[:, 2:] - scaled[:, :2]], axis=1)


def are_shares(boxes: NDArray[Any]) -> bool:
    """Whether boxes can be shares of a picture's width and height: those that go a little beyond it can."""
    return bool(len(boxes) == 0 or (boxes.min() >= -BEYOND and boxes.max() <= 1 + BEYOND))


def box_range(boxes: NDArray[Any]) -> str:
    """In words, from where to where boxes go."""
    return f"from {float(boxes.min(initial=0)):g} to {float(boxes.max(initial=0)):g}"


def box_features(norm_bb: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The model's box input [n, 7] in float32: the six of `norm_bb` [n, 6] and their area, w/W times h/H."""
    boxes = np.empty((len(norm_bb), 7), dtype=np.float32) if out is None else out
    boxes[:, :6] = norm_bb
    np.multiply(boxes[:, 4], boxes[:, 5], out=boxes[:, 6])
    return boxes


def cut_regions(
    arrays: Mapping[str, NDArray[Any]], rule: RegionRule, keep_all: bool
) -> tuple[dict[str, NDArray[Any]], int]:
    """What a packer stores of an extractor's arrays, and the count it notes.

    Rows are cut to the rule's count (with `keep_all` to the `nbb` entry, if there is one), float32 becomes
    float16, entries without dimensions are dropped. The noted count may exceed the rows there are.
    """
    rows = len(arrays["features"])
    if keep_all:
        count = int(arrays["nbb"].reshape(-1)[0]) if "nbb" in arrays else rows
    else:
        conf = arrays["conf"] if "conf" in arrays else np.ones(rows)
        count = int(rule.count(conf.reshape(-1)))
    kept = {name: _half(array[:count]) for name, array in arrays.items() if array.ndim}
    return kept, count


def _half(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype not in (np.float32, np.float64):
        return array
    with np.errstate(over="ignore"):  # too large for half precision: infinite, which the packer refuses
        return array.astype(np.float16)
