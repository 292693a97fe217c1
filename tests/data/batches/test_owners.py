"""data/batches/owners.py: the texts of an image, however many there are and in whatever order they are listed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.batches.owners import Owners

LISTS = st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=15)))


@given(LISTS)
def test_texts_of_an_image_are_those_that_it_owns(case: tuple[int, list[int]]) -> None:
    images, of = case
    owners = Owners(np.array(of, np.int64), images)
    for image in range(images):
        assert owners.texts(image).tolist() == [text for text, owner in enumerate(of) if owner == image]
    assert owners.without_text().tolist() == sorted(set(range(images)) - set(of))


def test_a_share_finds_each_text_of_its_image_equally_often() -> None:
    owners = Owners(np.array([2, 0, 2, 1, 2, 0]), 3)
    share = np.arange(12) / 12
    for image, texts in enumerate(([1, 5], [3], [0, 2, 4])):
        found = owners.text_at(np.full(12, image), share)
        assert found.tolist() == [text for text in texts for _ in range(12 // len(texts))]


def test_a_share_just_below_one_is_still_the_last_text() -> None:
    owners = Owners(np.repeat(np.arange(3), (5, 4999, 1)), 3)
    found = owners.text_at(np.arange(3), np.full(3, np.nextafter(1.0, 0.0)))
    assert found.tolist() == [4, 5003, 5004]
