"""The image of each text, and the texts of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Owners:
    """Ground truth in numbers: `of [texts]` is the image of each text; an image may have any number of texts."""

    def __init__(self, of: Array, images: int) -> None:
        self.of = of
        self._texts = np.argsort(of, kind="stable")
        self._first = np.searchsorted(of[self._texts], np.arange(images + 1))

    def texts(self, image: int) -> Array:
        """The texts of an image, ascending."""
        return self._texts[self._first[image] : self._first[image + 1]]

    def text_at(self, images: Array, place: Array) -> Array:
        """Of each of `images [n]` the text at `place [n]`, a share in [0, 1) of its texts."""
        count = np.diff(self._first)[images]
        return self._texts[self._first[images] + (place * count).astype(np.int64)]

    def without_text(self) -> Array:
        """The images that no text belongs to, ascending."""
        return np.flatnonzero(np.diff(self._first) == 0)
