"""data/batches/pairs.py: stores joined into numbered images and texts."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from config.errors import DataError
from data.batches.pairs import PairIndex, Source
from data.stores.image_store import ImageStore
from data.stores.text_store import TextStore
from tests.support import RULE, open_index, write_stores


def test_owner_says_which_image_a_caption_names(index: PairIndex, stores: tuple[Path, Path]) -> None:
    texts = TextStore(stores[0])
    assert [index.images[i] for i in index.owner] == texts.images
    assert index.texts == texts.ids
    counts = np.bincount(index.owner)
    assert set(counts) == {1, 2, 3}
    for image in range(len(index.images)):
        assert index.captions(image).tolist() == np.flatnonzero(index.owner == image).tolist()


def test_reading_gives_what_the_stores_hold(index: PairIndex, stores: tuple[Path, Path]) -> None:
    count = index.regions[3]
    features, boxes = np.empty((count, index.image_dim), np.float16), np.empty((count, 7), np.float32)
    index.read_images([3], features, boxes)
    image = ImageStore(stores[1], RULE).read(index.images[3])
    assert np.array_equal(features, image.features)
    assert np.array_equal(boxes, image.boxes)
    ids = np.empty(index.words[5], np.int64)
    index.read_texts([5], ids)
    assert ids.tolist() == [2, *TextStore(stores[0]).tokens(index.texts[5]).tolist(), 3]


class Keyed:
    """A source that writes down what it is asked for; its images are two rows of 3 x 2 bytes."""

    meta: ClassVar[dict[str, str]] = {}
    dim, row_shape, dtype = 2, (3, 2), np.dtype(np.uint8)

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []

    def counts(self, names: list[str]) -> np.ndarray:
        return np.full(len(names), 2)

    def read_into(self, name: str, features: np.ndarray, boxes: np.ndarray, key: int | None = None) -> None:
        assert (features.shape, boxes.shape) == ((2, 3, 2), (2, 7))
        self.asked.append((name, key))


def test_sources_of_any_shape_are_read_with_a_key_for_each_image(stores: tuple[Path, Path]) -> None:
    source = Keyed()
    index = PairIndex([Source(TextStore(stores[0]), source)])  # type: ignore[arg-type]
    assert (index.image_dim, index.row_shape, index.feature_type) == (2, (3, 2), np.uint8)
    features, boxes = np.empty((6, 3, 2), np.uint8), np.empty((6, 7), np.float32)
    index.read_images([4, 1, 4], features, boxes, np.array([7, 2**62, 9]))
    names = [index.images[at] for at in (4, 1, 4)]
    assert source.asked == list(zip(names, [7, 2**62, 9], strict=True))
    assert all(type(key) is int for _, key in source.asked)
    source.asked.clear()
    index.read_images([4, 1], features, boxes)
    assert source.asked == [(names[0], None), (names[1], None)]


def test_region_stores_have_rows_of_features(index: PairIndex) -> None:
    assert index.row_shape == (index.image_dim,) == (16,)


def test_several_sources_follow_each_other(stores: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_stores(tmp_path, images=5, name="b", seed=1)
    both, first = open_index(stores, other), open_index(stores)
    assert len(both.images) == len(first.images) + 5
    assert both.image_source.tolist() == [0] * 24 + [1] * 5
    assert (both.owner[len(first.texts) :] >= 24).all()
    features = np.empty((both.regions[-1], 16), np.float16)
    both.read_images([len(both.images) - 1], features, np.empty((both.regions[-1], 7), np.float32))
    assert np.array_equal(features, ImageStore(other[1], RULE).read("b_000004.npz").features)


def test_left_out_images_take_their_captions_along(stores: tuple[Path, Path]) -> None:
    source = Source(TextStore(stores[0]), ImageStore(stores[1], RULE))
    index = PairIndex([source], frozenset(["a_000001.npz"]))
    assert "a_000001.npz" not in index.images
    assert len(index.texts) == len(source.texts.ids) - 3
    assert index.owner.max() == len(index.images) - 1


def test_anchors_obey_the_length_limit(index: PairIndex) -> None:
    short = index.anchors(2)
    assert set(index.words[short] - 2) == {1, 2}
    assert len(index.anchors(-1)) == len(index.texts)


def test_stores_that_do_not_belong_together_are_refused(stores: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_stores(tmp_path, images=4, name="b")
    with pytest.raises(DataError, match=r"a_000000\.npz"):
        open_index((stores[0], other[1]))
