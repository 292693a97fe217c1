"""The parts of the page of attention: merged pieces, shades and boxes."""

from __future__ import annotations

import numpy as np

from scripts.page.attention import Blocks, drawn, looks


def test_merged_rows_still_sum_to_one():
    rng = np.random.default_rng(0)
    own, out, back, other = (rng.dirichlet(np.ones(n), rows) for rows, n in ((5, 5), (5, 4), (4, 5), (4, 4)))
    merged = Blocks(own, out, back, other).merged(np.array([0, 0, 1, 2, 2]))
    shapes = {"own": (3, 3), "out": (3, 4), "back": (4, 3), "other": (4, 4)}
    for name, shape in shapes.items():
        block = getattr(merged, name)
        assert block.shape == shape
        np.testing.assert_allclose(block.sum(1), 1)
    np.testing.assert_allclose(merged.out[0], (out[0] + out[1]) / 2)
    np.testing.assert_allclose(merged.own[1, 2], own[2, 3] + own[2, 4])


def test_shades_are_shares_of_the_largest():
    weights = np.array([[0.1, 0.4], [0.8, 0.2]])
    each, together = looks(["a", "b"], weights, each=True), looks(["a", "b"], weights, each=False)
    assert [[shade.strength for shade in look.shades] for look in each] == [[0.25, 1], [1, 0.25]]
    assert [[shade.strength for shade in look.shades] for look in together] == [[0.125, 0.5], [1, 0.25]]
    assert [look.strongest for look in each] == [1, 0]
    assert looks(["a"], np.zeros((1, 2)), each=True)[0].shades[0] == (0, 0)


def test_boxes_are_drawn_from_large_to_small_and_numbers_keep_apart():
    boxes = np.array([[0.1, 0.1, 0.3, 0.3], [0, 0, 1, 1], [0.1, 0.1, 0.3, 0.3], [0.9, -0.2, 1.4, 0.02]], np.float32)
    found = drawn(boxes, 200)
    assert [box.number for box in found] == [2, 1, 3, 4]
    assert (found[0].width, found[0].height) == (400, 200)
    corners = [(box.left, box.base) for box in found]
    assert len(set(corners)) == 4
    assert all(0 <= left <= 400 and 0 < base <= 200 for left, base in corners)
