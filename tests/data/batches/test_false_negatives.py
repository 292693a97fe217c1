"""data/batches/false_negatives.py: pairs that are neither matches nor negatives, found from either side."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.batches.false_negatives import FalseNegatives


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.data())
def test_pairs_are_found_from_either_side_however_often_they_were_given(owner: list[int], data: st.DataObject) -> None:
    places = st.tuples(st.integers(0, 4), st.integers(0, len(owner) - 1))
    given_pairs = data.draw(st.lists(places, max_size=20))
    pairs = {(image, text) for image, text in given_pairs if owner[text] != image}
    image, text = np.array(given_pairs, np.int64).reshape(-1, 2).T
    spared = FalseNegatives(image, text, np.array(owner), 5)
    assert len(spared) == len(pairs)
    for at in range(5):
        assert spared.texts_of(at).tolist() == sorted(text for image, text in pairs if image == at)
    for at in range(len(owner)):
        assert spared.images_of(at).tolist() == sorted(image for image, text in pairs if text == at)
    grid = spared.hold(np.arange(5)[:, None], np.arange(len(owner)))
    assert {(int(image), int(text)) for image, text in np.argwhere(grid)} == pairs
    assert spared.per_image().tolist() == grid.sum(1).tolist()
    assert spared.per_text().tolist() == grid.sum(0).tolist()


def test_none_is_none() -> None:
    spared = FalseNegatives.none(np.array([0, 1, 1]), 2)
    assert len(spared) == 0
    assert not spared.hold(np.arange(2)[:, None], np.arange(3)).any()
    assert spared.hold(np.zeros((0, 4), np.int64), np.zeros((0, 4), np.int64)).shape == (0, 4)
