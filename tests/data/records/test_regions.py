"""Region counts, folder names, box features and what a packer keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigError
from data.records.regions import RegionRule, box_features, cut_regions, normalise_boxes
from tests.arrays import extracted


def test_names_are_formatted_as_published() -> None:
    rule = RegionRule()
    assert rule.folder_name("published") == "feat_th0.2_max100_min10"
    assert rule.folder_name("compressed") == "feat_th0.2_max100_min10_compressed"
    assert rule.folder_name("native") == "native_th0.2_max100_min10"
    assert rule.folder_name("published", keep_all=True) == "all"
    assert rule.folder_name("compressed", keep_all=True) == "all_compressed"
    assert rule.count_file() == "nbb_th0.2_max100_min10.json"
    assert rule.count_file(keep_all=True) == "nbb.json"


def test_a_fixed_number_has_no_count_file() -> None:
    rule = RegionRule(conf_th=-1, num_bb=12)
    assert rule.is_fixed
    assert rule.folder_name("published") == "feat_numbb12"
    assert rule.folder_name("native") == "native_numbb12"
    assert rule.count_file() is None


def test_a_whole_threshold_is_formatted_as_a_number_with_a_point() -> None:
    assert RegionRule(conf_th=0).folder_name("published") == "feat_th0.0_max100_min10"


@given(st.lists(st.floats(0, 1, width=16), max_size=60), st.floats(0, 1), st.integers(1, 20), st.integers(0, 40))
def test_count_is_the_clipped_number_above_the_rounded_threshold(
    conf: list[float], threshold: float, low: int, more: int
) -> None:
    values = np.array(conf, np.float16)
    above = sum(float(value) > float(np.float16(threshold)) for value in values)
    expected = min(low + more, max(low, above))
    assert RegionRule(threshold, low + more, low).count(values) == expected


def test_the_threshold_is_rounded_to_half_precision_for_half_confidences() -> None:
    rule = RegionRule(min_bb=1)
    between = np.nextafter(np.float16(0.2), np.float16(1))
    assert rule.count(np.array([np.float16(0.2), between], np.float16)) == 1
    assert rule.count(np.array([0.19997] * 3, np.float32)) == 1
    assert rule.count(np.array([0.20001] * 3, np.float32)) == 3


def test_counts_of_many_images_at_once() -> None:
    conf = np.full((2, 5), -np.inf, np.float16)
    conf[0, :4], conf[1, :2] = 0.9, 0.9
    assert RegionRule(max_bb=3, min_bb=1).count(conf).tolist() == [3, 2]


@pytest.mark.parametrize("wrong", [{"min_bb": 0}, {"min_bb": 5, "max_bb": 4}, {"num_bb": 0}])
def test_impossible_rules_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="min_bb <= max_bb"):
        RegionRule(**wrong)  # type: ignore[arg-type]


def test_boxes_are_normalised_by_width_and_height() -> None:
    got = normalise_boxes([[64, 48, 320, 480]], 640, 480)
    assert np.allclose(got, [[0.1, 0.1, 0.5, 1.0, 0.4, 0.9]])
    assert got.dtype == np.float32


def test_area_is_computed_in_single_precision_from_the_stored_halves() -> None:
    stored = normalise_boxes([[1, 2, 301, 402]], 640, 480).astype(np.float16)
    got = box_features(stored)
    wide = stored.astype(np.float32)
    assert got.dtype == np.float32
    assert np.array_equal(got[:, :6], wide)
    assert np.array_equal(got[:, 6], wide[:, 4] * wide[:, 5])


def test_box_features_can_be_written_in_place() -> None:
    out = np.empty((4, 7), np.float32)
    boxes = extracted(0, rows=4)["norm_bb"]
    assert box_features(boxes, out) is out
    assert np.array_equal(out, box_features(boxes))


def test_cut_keeps_counted_rows_in_half_precision_and_drops_scalars() -> None:
    image = extracted(0, rows=9, dtype=np.float32)
    image["conf"] = np.array([0.9, 0.8, 0.7, *[0.0] * 6], np.float32)[:, None]
    kept, count = cut_regions({**image, "nbb": np.array(5), "labels": np.arange(9)}, RegionRule(min_bb=2), False)
    assert count == 3
    assert kept.keys() == {*image, "labels"}
    assert {name: array.dtype.str for name, array in kept.items() if name != "labels"} == dict.fromkeys(image, "<f2")
    assert kept["labels"].tolist() == [0, 1, 2]
    assert kept["conf"].shape == (3, 1)


def test_cut_notes_a_count_above_the_rows_there_are() -> None:
    kept, count = cut_regions(extracted(0, rows=4), RegionRule(min_bb=10), False)
    assert count == 10
    assert len(kept["features"]) == 4


def test_cut_keeps_all_up_to_the_image_s_own_number() -> None:
    image = extracted(0, rows=9)
    assert cut_regions(image, RegionRule(), True)[1] == 9
    kept, count = cut_regions({**image, "nbb": np.array(4)}, RegionRule(), True)
    assert (count, len(kept["features"])) == (4, 4)


def test_a_fixed_number_still_stores_up_to_max_bb_rows() -> None:
    image = extracted(0, rows=9)
    assert cut_regions(image, RegionRule(conf_th=-1, num_bb=3, max_bb=100), False)[1] == 10
    assert len(cut_regions(image, RegionRule(conf_th=-1, num_bb=3, max_bb=6, min_bb=1), False)[0]["features"]) == 6


@pytest.mark.parametrize("conf_th", [float("nan"), float("inf"), 20, -0.5])
def test_thresholds_that_are_no_confidence_are_refused(conf_th: float) -> None:
    with pytest.raises(ConfigError, match=r"conf_th .*: give a confidence from 0 to 1, or -1 for num_bb regions"):
        RegionRule(conf_th)
