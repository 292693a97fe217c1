"""Pictures described without downloaded weights: their boxes, raw features, and the records of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.records.image_record import encode_image
from data.records.pixels import to_8_bit
from data.records.regions import Codec, RegionRule, normalise_boxes
from data.source.jpeg import describe, propose_boxes, read_picture
from data.source.picture_selection import Picture
from data.source.region_features import EDGE_SIDE
from data.source.whitener import Whitener
from scripts.building.packing import Packed
from scripts.command.parallel import progress


def describe_all(
    found: Iterable[NDArray[np.float32] | str], total: int, broken: list[str]
) -> Iterator[NDArray[np.float32]]:
    """Raw features of pictures, with a bar; what is told of those that have none is put on the list `broken`."""
    for raw in progress(found, total, " pictures looked at"):
        if isinstance(raw, str):
            broken.append(raw)
        else:
            yield raw


def stack_parts(parts: Iterator[NDArray[np.float32]], size: int = 64) -> Iterator[NDArray[np.float32]]:
    """The same rows in fewer, larger arrays: one large product costs far less than many small ones."""
    while some := list(islice(parts, size)):
        yield np.concatenate(some)


class PictureOptions(NamedTuple):
    """How pictures are read: most boxes of one, its largest size, and the range of floating numbers in it."""

    max_regions: int
    max_pixels: int
    float_range: Sequence[float] | None

    @classmethod
    def of(cls, options: argparse.Namespace) -> PictureOptions:
        return cls(options.max_regions, options.max_pixels, options.float_range)


def describe_or_tell(picture: Picture, how: PictureOptions) -> NDArray[np.float32] | str:
    """Raw features of a picture's regions; of a broken one, which is left out when it is packed, what is wrong."""
    try:
        return describe_picture(picture, how)[0]
    except DataError as error:
        return str(error)


def describe_picture(picture: Picture, how: PictureOptions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Raw features [n, raw_dim] and norm_bb [n, 6] of a picture's regions."""
    data = to_8_bit(picture.data, how.float_range, how.max_pixels) if how.float_range else picture.data
    pixels = read_picture(data, picture.name, EDGE_SIDE, how.max_pixels)
    height, width = pixels.shape[:2]
    if picture.annotated is not None:
        boxes = picture.annotated.pixels(width, height, picture.name)
        return describe(pixels, boxes), picture.annotated.norm_bb
    boxes = propose_boxes(width, height, how.max_regions)
    return describe(pixels, boxes), normalise_boxes(boxes, width, height)


def encode_picture(
    picture: Picture,
    whitener: Whitener,
    rule: RegionRule,
    codec: Codec,
    keep_all: bool,
    how: PictureOptions,
) -> Packed:
    """One picture as a record."""
    name = picture.name
    try:
        raw, boxes = describe_picture(picture, how)
        arrays = {
            "norm_bb": boxes,
            "features": whitener.transform(raw),
            "conf": np.ones(len(raw), np.float32),
        }
        record, count = encode_image(arrays, rule, codec, keep_all)
    except DataError as error:
        return Packed(name, error=str(error))
    return Packed(name, record, count, whitener.img_dim)
