"""Regions as a noisy detector would give them: jittered true boxes, doubles, distractors, and confidences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.records.regions import RegionRule
from scripts.scenes.draw import SIDE

RULE = RegionRule(conf_th=0.2, max_bb=10, min_bb=2)

JITTER = 0.05  # standard deviation of a box edge, as a share of the box's side
DOUBLE = 0.2  # of finding an object a second time, less well
DOUBLE_JITTER = 0.14
MISS = 0.02  # of seeing an object with a confidence below the threshold
DISTRACTORS = (1, 3)
SMALLEST = 6.0  # pixels of a box side


def detect(boxes: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes [m, 4] in pixels and confidences [m], the most confident first, for the true boxes [n, 4] of a scene."""
    count = len(boxes)
    conf = np.where(rng.random(count) < MISS, rng.uniform(0.05, 0.2, count), rng.uniform(0.55, 0.99, count))
    double = rng.random(count) < DOUBLE
    doubles = _jitter(boxes, DOUBLE_JITTER, rng)[double]
    double_conf = rng.uniform(0.15, 0.5, count)[double]

    extra = int(rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1))
    size = rng.uniform(14, 60, (extra, 2))
    corner = rng.uniform(0, 1, (extra, 2)) * (SIDE - size)
    distractors = np.concatenate([corner, corner + size], axis=1)
    # Most distractors fall below the threshold of RULE; squared, so that few come near a real confidence.
    distractor_conf = 0.05 + 0.4 * rng.random(extra) ** 2

    found = np.concatenate([_jitter(boxes, JITTER, rng), doubles, distractors])
    confidence = np.concatenate([conf, double_conf, distractor_conf])
    order = np.argsort(-confidence, kind="stable")
    return found[order].astype(np.float32), confidence[order].astype(np.float32)


def _jitter(boxes: NDArray[np.float32], share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Each edge moved by a normal step, kept in the picture and at least SMALLEST pixels apart."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + rng.normal(0, share, boxes.shape) * sides
    first = np.clip(moved[:, :2], 0, SIDE - SMALLEST)
    return np.concatenate([first, np.clip(moved[:, 2:], first + SMALLEST, SIDE)], axis=1)
