"""The pictures that are to be packed: under which names, and whether annotated boxes are to be their regions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from config.errors import DataError
from data.picture_files import fits, odd_files, without_ending
from data.source.annotated import AnnotatedBoxes, annotated_boxes
from data.source.entries import Entry, name_images
from data.source.jpeg import iterate_pictures


class Wanted(NamedTuple):
    """One picture that is wanted.

    Attributes:
        name: what it is stored under.
        place: its file without the ending, as far as the source of captions tells: with folders, or its name alone.
        annotated: the boxes that are to be its regions, if they are annotated.
    """

    name: str
    place: PurePosixPath
    annotated: AnnotatedBoxes | None = None


class Picture(NamedTuple):
    """A wanted picture and the bytes of its file."""

    name: str
    data: bytes
    annotated: AnnotatedBoxes | None = None


def every_picture(source: Path) -> list[Entry]:
    """All pictures of a folder or archive, as images without captions."""
    return [Entry(PurePosixPath(path).stem, "", ()) for path, _ in iterate_pictures(source)]


def choose(entries: Iterable[Entry], naming: str, annotated: bool) -> tuple[list[Wanted], list[str]]:
    """What is wanted of each picture.

    Args:
        annotated: the boxes of the captions' phrases are to be the regions.

    Returns:
        The wanted pictures, and the names of images left out because no phrase of their captions has a box.

    Raises:
        ConfigError: two images would have one name.
        DataError: annotated boxes do not fit their picture.
    """
    found = []
    for name, entry in dict(name_images(entries, naming)).items():
        place = without_ending(entry.file) if entry.file else PurePosixPath(entry.image)
        found.append(Wanted(name, place, annotated_boxes(entry) if annotated else None))
    boxless = [one.name for one in found if annotated and one.annotated is None]
    return [one for one in found if not annotated or one.annotated is not None], boxless


def files_of(entries: Iterable[Entry], naming: str) -> dict[str, str]:
    """What a store's description says of the files of these images (see `data.picture_files`)."""
    return odd_files((name, entry.image, entry.file) for name, entry in name_images(entries, naming))


def read_wanted(source: Path, wanted: Sequence[Wanted], by_number: bool = False) -> Iterator[Picture]:
    """Each wanted picture that there is in a folder or archive.

    A picture is one that is wanted where the path of either is the end of the other's: both may be told from other
    folders, and the formats may differ.

    Args:
        by_number: pictures are wanted by number; `COCO_val2014_000000000042.jpg` is picture 42, as are
            `000000000042.jpg` and `42.jpg`.

    Raises:
        DataError: two pictures would have one name, or one could be either of two.
    """
    by_stem: dict[str, list[Wanted]] = defaultdict(list)
    for one in wanted:
        by_stem[one.place.name].append(one)
    seen: dict[str, str] = {}
    for path, data in iterate_pictures(source):
        found = _meant(source, path, by_stem, by_number)
        if found is None:
            continue
        if found.name in seen:
            raise DataError(f"{source}: {seen[found.name]} and {path} would both be {found.name}; rename one")
        seen[found.name] = path
        yield Picture(found.name, data, found.annotated)


def _meant(source: Path, path: str, by_stem: Mapping[str, list[Wanted]], by_number: bool) -> Wanted | None:
    """Which of the wanted pictures this one is."""
    place = without_ending(path)
    if by_number and place.name not in by_stem:
        place = PurePosixPath(re.sub(r"^(.*\D)?0*(?=\d+$)", "", place.name))
    found = [one for one in by_stem.get(place.name, ()) if fits(one.place, place)]
    if len(found) > 1:
        raise DataError(f"{source}: {path} could be {found[0].place} or {found[1].place} of the captions; name the "
                        "folder above, whose pictures have these paths")  # fmt: skip
    return found[0] if found else None
