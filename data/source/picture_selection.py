"""The selection of pictures to pack: their names, and whether annotated boxes become their regions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from config.errors import DataError
from config.wording import pluralise
from data.source.annotated_boxes import AnnotatedBoxes, annotated_boxes
from data.source.entries import Entry, name_images
from data.source.jpeg import iterate_pictures, picture_names
from data.stores.picture_files import fits, odd_files, without_ending

SHOWN = 3
"""Pictures that leave open what they are, told one by one; the rest are counted."""


class PictureSelection(NamedTuple):
    """One picture that is wanted.

    Attributes:
        name: what it is stored under.
        place: its file without the ending, as far as the source of captions tells: with folders, or its name alone.
        annotated: the boxes that are to be its regions, if they are annotated.
        file: its file, if the source of captions tells.
    """

    name: str
    place: PurePosixPath
    annotated: AnnotatedBoxes | None = None
    file: str = ""


class Picture(NamedTuple):
    """A wanted picture and the bytes of its file."""

    name: str
    data: bytes
    annotated: AnnotatedBoxes | None = None


def every_picture(source: Path) -> list[Entry]:
    """All pictures of a folder or archive, as images without captions."""
    return [Entry(PurePosixPath(path).stem, "", ()) for path in picture_names(source)]


def choose(entries: Iterable[Entry], naming: str, annotated: bool) -> tuple[list[PictureSelection], list[str]]:
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
        found.append(PictureSelection(name, place, annotated_boxes(entry) if annotated else None, entry.file))
    boxless = [one.name for one in found if annotated and one.annotated is None]
    return [one for one in found if not annotated or one.annotated is not None], boxless


def files_of(entries: Iterable[Entry], naming: str) -> dict[str, str]:
    """What a store's description says of the files of these images (see `data.stores.picture_files`)."""
    return odd_files((name, entry.image, entry.file) for name, entry in name_images(entries, naming))


def locate(
    source: Path, wanted: Sequence[PictureSelection], by_number: bool = False
) -> dict[str, list[PictureSelection]]:
    """Which of the wanted pictures each picture of a folder or archive is, by its path there; none is read.

    The picture of the very path that the source of captions tells is the one that it means. Others are one that is
    wanted where the path of either is the end of the other's: both may be told from other folders, and the formats
    may differ.

    Args:
        by_number: pictures are wanted by number; `COCO_val2014_000000000042.jpg` is picture 42, as are
            `000000000042.jpg` and `42.jpg`.

    Raises:
        DataError: two pictures would have one name, one could be either of two, or there is none of those wanted.
    """
    paths = picture_names(source)
    located = _of_these_paths(paths, wanted)
    done = {one.name for ones in located.values() for one in ones}
    by_stem: dict[str, list[PictureSelection]] = defaultdict(list)
    for one in wanted:
        if one.name not in done:
            by_stem[one.place.name].append(one)
    seen: dict[str, str] = {}
    faults = []
    for path in paths:
        found = [] if path in located else _meant(path, by_stem, by_number)
        if len({one.place for one in found}) > 1:
            faults.append(f"{path} could be {found[0].place} or {found[1].place} of the captions; name the folder "
                          "above, whose pictures have these paths")  # fmt: skip
            continue
        faults += [f"{seen[one.name]} and {path} would both be {one.name}; rename one"
                   for one in found if one.name in seen]  # fmt: skip
        seen |= {one.name: path for one in found}
        located |= {path: found} if found else {}
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(f"{source}: {'; '.join(faults[:SHOWN])}{more}")
    if wanted and not located:
        others = " and others" if len(paths) > 1 else ""
        raise DataError(f"{source} holds none of the {pluralise(len(wanted), 'picture')} wanted, such as "
                        f"{wanted[0].file or wanted[0].place}; it holds {paths[0]}{others}; name the folder of these")
    return located


def read_wanted(source: Path, located: Mapping[str, Sequence[PictureSelection]]) -> Iterator[Picture]:
    """The pictures that `locate` found, or some of them, in the order of the folder or archive."""
    for path, data in iterate_pictures(source, located):
        for one in located[path]:
            yield Picture(one.name, data, one.annotated)


def _of_these_paths(paths: Iterable[str], wanted: Iterable[PictureSelection]) -> dict[str, list[PictureSelection]]:
    """The wanted pictures whose very paths there are."""
    there, found = Counter(paths), defaultdict(list)
    for one in wanted:
        if there[one.file] == 1:
            found[one.file].append(one)
    return dict(found)


def _meant(path: str, by_stem: Mapping[str, list[PictureSelection]], by_number: bool) -> list[PictureSelection]:
    """Which of the wanted pictures one may be."""
    place = without_ending(path)
    if by_number and place.name not in by_stem:
        place = PurePosixPath(re.sub(r"^(.*\D)?0*(?=\d+$)", "", place.name))
    return [one for one in by_stem.get(place.name, ()) if fits(one.place, place)]
