"""The noisy detector: boxes in the picture and near the true ones, few distractors above the threshold."""

from __future__ import annotations

import numpy as np

from data.draws import generator
from scripts.scenes.detect import RULE, detect
from scripts.scenes.draw import SIDE

TRUE = np.array([[2, 2, 40, 45], [100, 90, 124, 112], [60, 120, 105, 158]], np.float32)


def test_boxes_are_inside_and_confidences_fall() -> None:
    for index in range(50):
        boxes, conf = detect(TRUE, generator(0, "test", index))
        assert boxes.shape == (len(conf), 4)
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        assert (boxes[:, 2:] - boxes[:, :2]).min() > 5.9
        assert (np.diff(conf) <= 0).all()
        assert 4 <= len(conf) <= 9


def test_most_objects_are_found_and_most_distractors_are_not() -> None:
    found, kept, overlaps = 0, 0, []
    for index in range(200):
        boxes, conf = detect(TRUE, generator(1, "test", index))
        count = int(RULE.count(conf))
        best = overlap(boxes[:count], TRUE).max(0)
        found += (best > 0.5).sum()
        kept += count
        overlaps += best[best > 0.5].tolist()
    assert found / (200 * len(TRUE)) > 0.93
    assert np.mean(overlaps) > 0.75
    assert 3 < kept / 200 < 5.5


def overlap(boxes: np.ndarray, true: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], true[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], true[None, :, 2:])
    both = (high - low).clip(0).prod(-1)
    areas = [np.prod(side[:, 2:] - side[:, :2], axis=1) for side in (boxes, true)]
    return both / (areas[0][:, None] + areas[1][None] - both)


def test_same_draws_same_regions() -> None:
    first, again = (detect(TRUE, generator(2, "test")) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
