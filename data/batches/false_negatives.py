"""False negatives: pairs that do not belong together and are no negatives either, such as equal captions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class FalseNegatives:
    """Some pairs of the images and texts of an index, found by either; it may hold none."""

    def __init__(self, image: Array, text: Array, owner: Array, images: int) -> None:
        """Keep the pairs (`image`, `text`) of an index of so many `images` that are not true by `owner [texts]`."""
        wrong = owner[text] != image
        image, text = image[wrong].astype(np.int64), text[wrong].astype(np.int64)
        self._images, self._texts = images, len(owner)
        self._keys = np.unique(image * self._texts + text)
        self._turned = np.unique(text * self._images + image)

    @classmethod
    def none(cls, owner: Array, images: int) -> FalseNegatives:
        """No pair at all."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, owner, images)

    def __len__(self) -> int:
        return len(self._keys)

    def texts_of(self, image: int) -> Array:
        """The texts that are false negatives of an image, ascending."""
        first, end = np.searchsorted(self._keys, (image * self._texts, (image + 1) * self._texts))
        return self._keys[first:end] % self._texts

    def images_of(self, text: int) -> Array:
        """The images that are false negatives of a text, ascending."""
        first, end = np.searchsorted(self._turned, (text * self._images, (text + 1) * self._images))
        return self._turned[first:end] % self._images

    def per_image(self) -> Array:
        """`[images]`, how many texts each spares."""
        return np.bincount(self._keys // self._texts, minlength=self._images)

    def per_text(self) -> Array:
        """`[texts]`, how many images each spares."""
        return np.bincount(self._turned // self._images, minlength=self._texts)

    def hold(self, image: Array, text: Array) -> NDArray[np.bool_]:
        """Whether pairs of numbers, in arrays that fit each other, are among them."""
        keys = image * self._texts + text
        place = np.searchsorted(self._keys, keys)
        return np.append(self._keys, -1)[place] == keys
