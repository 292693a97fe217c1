"""The pictures that are to be packed: under which names, and whether annotated boxes are to be their regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from config.errors import DataError
from data.source.annotated import AnnotatedBoxes, annotated_boxes
from data.source.captions import Entry
from data.source.jpeg import iterate_pictures


class Wanted(NamedTuple):
    """The image name that a picture is stored under, and its annotated boxes if they are to be its regions."""

    name: str
    annotated: AnnotatedBoxes | None = None


class Picture(NamedTuple):
    """A wanted picture and the bytes of its file."""

    name: str
    data: bytes
    annotated: AnnotatedBoxes | None = None


def every_picture(source: Path) -> list[Entry]:
    """All pictures of a folder or archive, as images without captions."""
    return [Entry(PurePosixPath(path).stem, "", ()) for path, _ in iterate_pictures(source)]


def choose(entries: Iterable[Entry], naming: str, annotated: bool) -> tuple[dict[str, Wanted], list[str]]:
    """What is wanted of each picture, by its file name without folder and suffix.

    Args:
        annotated: the boxes of the captions' phrases are to be the regions.

    Returns:
        The wanted pictures, and the names of images left out because no phrase of their captions has a box.

    Raises:
        DataError: annotated boxes do not fit their picture.
    """
    if not annotated:
        return {entry.image: Wanted(entry.image_name(naming)) for entry in entries}, []
    found = {entry.image: Wanted(entry.image_name(naming), annotated_boxes(entry)) for entry in entries}
    boxless = [name for name, boxes in found.values() if boxes is None]
    return {stem: wanted for stem, wanted in found.items() if wanted.annotated is not None}, boxless


def read_wanted(source: Path, wanted: Mapping[str, Wanted], by_number: bool = False) -> Iterator[Picture]:
    """Each wanted picture that there is in a folder or archive.

    Args:
        by_number: pictures are wanted by number; `COCO_val2014_000000000042.jpg` is picture 42, as are
            `000000000042.jpg` and `42.jpg`.

    Raises:
        DataError: two pictures would have one name.
    """
    seen: dict[str, str] = {}
    for path, data in iterate_pictures(source):
        stem = PurePosixPath(path).stem
        if by_number and stem not in wanted:
            stem = re.sub(r"^(.*\D)?0*(?=\d+$)", "", stem)
        if stem not in wanted:
            continue
        name, annotated = wanted[stem]
        if stem in seen:
            raise DataError(f"{source}: {seen[stem]} and {path} would both be {name}; rename one")
        seen[stem] = path
        yield Picture(name, data, annotated)
