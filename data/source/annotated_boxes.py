"""Annotated boxes as the regions of a picture, in place of a detector's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.records.phrases import phrase_boxes
from data.records.regions import normalise_boxes
from data.source.entries import Entry


@dataclass(frozen=True)
class AnnotatedBoxes:
    """The boxes of one picture.

    Attributes:
        width, height: of the picture that was annotated, in pixels.
        shares: [n, 4] float32, x1 y1 x2 y2 as shares of width and height.
    """

    width: float
    height: float
    shares: NDArray[np.float32]

    @property
    def norm_bb(self) -> NDArray[np.float32]:
        """[n, 6], as image stores keep them."""
        return normalise_boxes(self.shares, 1, 1)

    def pixels(self, width: int, height: int, name: str) -> NDArray[np.float32]:
        """[n, 4] in pixels of the picture as it was decoded, perhaps reduced.

        Raises:
            DataError: its proportions are not those of the annotated picture.
        """
        # A decoder that halves a picture, or quarters it, rounds each side up by less than a pixel.
        if abs(width * self.height - height * self.width) > self.width + self.height:
            raise DataError(
                f"{name} is {width} x {height} here and {self.width:g} x {self.height:g} in its annotation; "
                "give the pictures that were annotated, not cut or turned"
            )
        return self.shares * np.array([width, height] * 2, np.float32)


def annotated_boxes(entry: Entry) -> AnnotatedBoxes | None:
    """The boxes of all phrases of an image's captions in order of first appearance, each once; None without any.

    Raises:
        DataError: a phrase's boxes do not fit the picture; names caption and phrase.
    """
    found: dict[tuple[float, ...], None] = {}
    size: Any = None
    for caption in entry.captions:
        image_size = caption.fields.get("image_size")
        where = f"caption {caption.id} of {entry.image}"
        for boxes in phrase_boxes(caption.fields.get("phrases", ()), image_size, where):
            found.update(dict.fromkeys(boxes))
            size = image_size if boxes else size
    if not found:
        return None
    return AnnotatedBoxes(float(size[0]), float(size[1]), np.array(list(found), np.float32))
