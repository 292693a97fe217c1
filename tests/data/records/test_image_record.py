"""data/records/image_record.py: arrays that a store takes, and a line for those that it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from config.errors import DataError
from data.records.image_record import encode_image
from data.records.regions import Codec, RegionRule
from tests.arrays import extracted

LAYOUTS: tuple[Codec, ...] = ("native", "published", "compressed")
RULE = RegionRule(conf_th=0.5, max_bb=9, min_bb=3)


def test_what_is_missing_is_named() -> None:
    image = extracted(0)
    del image["conf"]
    with pytest.raises(DataError, match="holds no conf, but norm_bb, features, soft_labels"):
        encode_image(image, RULE, "native")
    encode_image(image, RegionRule(conf_th=-1), "native")
    encode_image(image, RULE, "native", keep_all=True)



def test_equal_input_makes_equal_records() -> None:
    for codec in LAYOUTS:
        assert encode_image(extracted(0), RULE, codec) == encode_image(extracted(0), RULE, codec)



@pytest.mark.parametrize(("change", "told"), [
    ({"norm_bb": lambda boxes: boxes * 100}, r"has boxes from .* to .*, not shares .*; --pixel_boxes of build_imgdb"),
    ({"norm_bb": lambda boxes: -boxes}, "has boxes from -.* to -?0.*, not shares"),
    ({"norm_bb": lambda boxes: boxes * np.nan}, "not finite"),
    ({"conf": lambda conf: conf * np.nan}, r"not finite \(conf\)"),
    ({"features": lambda features: features.astype(float) * 1e6}, r"not finite in half precision \(features\)"),
    ({"features": lambda features: np.array(3.0)}, "do not agree"),
    ({"features": lambda features: features.astype(int)}, "holds features of int64, not of floating numbers"),
    ({"features": lambda features: features.astype(str), "conf": lambda conf: conf.astype("S4")},
     "holds features of .*, conf of .*, not of floating numbers"),
    ({"features": lambda features: features[:, :0]}, "do not agree"),
])  # fmt: skip
def test_arrays_of_other_numbers_are_refused(change: dict[str, Any], told: str) -> None:
    arrays = extracted(0)
    with pytest.raises(DataError, match=told):
        encode_image(arrays | {name: to(arrays[name]) for name, to in change.items()}, RULE, "native")



@pytest.mark.parametrize("number", [0, -1, 2.5, np.nan, [3, 4], "three"])
def test_a_number_of_regions_that_is_none_is_refused(number: Any) -> None:
    with pytest.raises(DataError, match=r"as its number of regions .nbb, num_bbox.; give a whole number from 1"):
        encode_image(extracted(0) | {"nbb": np.array(number)}, RULE, "native", keep_all=True)
    encode_image(extracted(0) | {"nbb": np.array(number)}, RULE, "native")  # is not asked for there



@pytest.mark.parametrize("number", [3, 3.0, [3]])
def test_a_number_of_regions_may_be_of_any_type(number: Any) -> None:
    arrays = extracted(0) | {"nbb": np.array(number)}
    assert encode_image(arrays, RULE, "native", keep_all=True)[1] == 3



def test_boxes_that_end_before_they_begin_are_refused() -> None:
    image = extracted(0)
    image["norm_bb"][1, 4] = -0.2
    with pytest.raises(DataError, match="has boxes that end before they begin; give x1, y1, x2, y2, width and height"):
        encode_image(image, RULE, "native")
