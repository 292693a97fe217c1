"""Images with their captions: what every source of captions yields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from config.errors import ConfigError

RECORDED = 1 << 63
"""Numbers below it can be kept in a record; a larger one is part of a name."""


@dataclass(frozen=True)
class Caption:
    """One caption: its id (a decimal string), its text, and what else its record is to hold."""

    id: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One image and its captions.

    Attributes:
        image: what the source calls it: a file name without folder and suffix, or an id.
        number: trailing number of that name; None where it has none.
        split: as the source names it; empty where it does not.
        file: its picture, relative to the folder of the pictures; empty where the source does not say.
    """

    image: str
    split: str
    captions: tuple[Caption, ...]
    file: str = ""

    @property
    def number(self) -> int | None:
        found = re.search(r"\d+$", self.image)
        number = int(found[0]) if found else RECORDED
        return number if number < RECORDED else None

    def image_name(self, naming: str) -> str:
        """The image's key in an image store, from a template with {stem} or {id}, the trailing number.

        Raises:
            ConfigError: the template asks for something else, or for a number that the name does not have.
        """
        try:
            return naming.format(stem=self.image, id=self.number)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"image_naming {naming!r} does not fit image {self.image!r} ({error})") from error


def select(entries: list[Entry], splits: Sequence[str] | None) -> list[Entry]:
    """The entries of the named splits; all of them if none is named.

    Raises:
        ConfigError: no entry is of such a split; the message lists those there are.
    """
    if not splits:
        return entries
    there = sorted({entry.split for entry in entries} - {""})
    unknown = [split for split in splits if split not in there]
    if unknown:
        raise ConfigError(f"there is no split {unknown[0]}, the file has {', '.join(there) or 'no splits'}")
    return [entry for entry in entries if entry.split in splits]


def name_images(entries: Iterable[Entry], naming: str) -> list[tuple[str, Entry]]:
    """Entries with the keys of their images in an image store.

    Raises:
        ConfigError: the template does not fit an image, or gives two of them one key.
    """
    named = [(entry.image_name(naming), entry) for entry in entries]
    first: dict[str, str] = {}
    for name, entry in named:
        if (other := first.setdefault(name, entry.image)) != entry.image:
            raise ConfigError(f"image_naming {naming!r} gives {other} and {entry.image} one name, {name}; use {{stem}}")
    return named
