"""The picture file of an image where its name differs from the image's, and whether stores agree on it.

The description of a store may hold `files`: by image key the picture's file, relative to the folder of the pictures,
of those whose file's name is not that of the image. A store whose source says nothing of files has no such entry.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

FILES = "files"
STEM_FIELD = "{stem}"
STEM = f"{STEM_FIELD}.npz"
"""The `image_naming` of a store that tells none."""
OWN = "the picture of its own name"
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""Of the files that are pictures."""


def without_ending(file: str) -> PurePosixPath:
    """The path of a picture's file, without the ending that says its format."""
    path = PurePosixPath(file)
    return path.with_suffix("") if path.suffix.lower() in ENDINGS else path


def fits(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Whether one of two paths is the end of the other: they may be told from another folder."""
    shorter = min(len(one.parts), len(other.parts))
    return one.parts[len(one.parts) - shorter :] == other.parts[len(other.parts) - shorter :]


def odd_files(named: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """What a store's `files` are, of (image key, image, file) each; an image without a file is of its own name.

    A file of the image's name is odd too where another one has that name, in another folder.
    """
    told = {key: (image, file) for key, image, file in named if file}
    count = Counter(without_ending(file).name for _, file in told.values())
    names = {key: without_ending(file).name for key, (_, file) in told.items()}
    return {key: file for key, (image, file) in told.items() if names[key] != image or count[names[key]] > 1}


def other_files(texts: Mapping[str, Any], images: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    """In words: the images of which the descriptions of a text and an image store say that they are other pictures."""
    if FILES not in texts or FILES not in images:
        return
    there, here = texts[FILES], images[FILES]
    namings = texts.get("image_naming", STEM), images.get("image_naming", STEM)
    for name in names:
        meant, packed = there.get(name), here.get(name)
        if meant != packed and not _same(meant, packed, name, namings):
            yield f"{name} is {meant or OWN} for the captions, {packed or OWN} in the store"


def _same(meant: str | None, packed: str | None, name: str, namings: tuple[str, str]) -> bool:
    places = [without_ending(file) if file else _own(name, naming)
              for file, naming in zip((meant, packed), namings, strict=True)]  # fmt: skip
    if None in places:  # a key of which only the number is that of the picture's name
        return len({_number(place.name if place else name.removesuffix(".npz")) for place in places}) == 1
    return fits(*(place for place in places if place))


def _own(name: str, naming: str) -> PurePosixPath | None:
    """The picture of an image's own name, from the image's key; None where the key does not hold that name."""
    before, stem, after = naming.partition(STEM_FIELD)
    return PurePosixPath(name.removeprefix(before).removesuffix(after)) if stem else None


def _number(name: str) -> int | None:
    found = re.search(r"\d+$", name)
    return int(found[0]) if found else None
