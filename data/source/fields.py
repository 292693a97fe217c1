"""Fields of an entry in a JSON file of the user; every fault is reported with its place."""

from __future__ import annotations

import re
from typing import Any

from data.source.lines import Faults, find_non_text

LONGEST_NAME = 480
"""Bytes: a store's keys have at most 511, of which `image_naming` takes some."""
CONTROL = re.compile("[\x01-\x1f\x7f]")
"""What would break lines of lists and messages."""


class Fields:
    """The fields of one entry of a captions file; what is wrong with them is noted, and something harmless returned."""

    def __init__(self, entry: Any, where: str, faults: Faults) -> None:
        self.where, self._faults = where, faults
        self._entry: dict[str, Any] = entry if isinstance(entry, dict) else {}
        self._is_one = isinstance(entry, dict)
        if not self._is_one:
            faults.add(f"{where} is {kind_of(entry)}, not an object with fields")

    def wrong(self, fault: str) -> None:
        """Note that the entry is wrong in this."""
        self._faults.add(f"{self.where} {fault}")

    def _get(self, name: str, default: Any = None) -> Any:
        if self._is_one and name not in self._entry and default is None:
            self.wrong(f"lacks '{name}'")
        return self._entry.get(name, default)

    def text(self, name: str, default: str | None = None) -> str:
        """A text; of one that must be there, not an empty one."""
        value = self._get(name, default)
        if value is None and (name not in self._entry):
            return ""
        if value == "" and default is None:
            self.wrong(f"has an empty '{name}'")
        return self.checked(value, f"'{name}'")

    def name(self, name: str) -> str:
        """What names something: a text that a store can have as a key, or a whole number."""
        value = self._get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if name not in self._entry:
            return ""
        if value == "" or not isinstance(value, str):
            self.wrong(f"has {kind_of(value)} as '{name}'; give a name or a whole number")
            return ""
        return self._key(self.checked(value, f"'{name}'"), name)

    def file_name(self, name: str) -> str:
        """The name of a file, which names an image too."""
        return self._key(self.text(name), name)

    def _key(self, value: str, name: str) -> str:
        size = len(value.encode(errors="replace"))
        if size > LONGEST_NAME:
            self.wrong(f"has a name of {size} bytes as '{name}'; give at most {LONGEST_NAME}")
        elif control := CONTROL.search(value):
            self.wrong(f"has U+{ord(control[0]):04X} in its '{name}'; remove it")
        return value

    def checked(self, value: Any, what: str) -> str:
        """A value that should be a text."""
        if not isinstance(value, str):
            self.wrong(f"has {kind_of(value)} as {what}; give a text")
            return ""
        if wrong := find_non_text(value):
            self.wrong(f"has {what} that {wrong}")
        return value

    def list_of(self, name: str, what: str) -> list[Any]:
        """A list."""
        value = self._get(name)
        if isinstance(value, list):
            return value
        if name in self._entry:
            self.wrong(f"has {kind_of(value)} as '{name}'; give a list of {what}")
        return []

    def phrases(self, captions: int) -> list[dict[str, Any]]:
        """What `phrases` adds to each caption's record; nothing where there are none."""
        phrases = self._entry.get("phrases")
        if phrases is None:
            return []
        if not (isinstance(phrases, list) and all(isinstance(of, list) for of in phrases)):
            self.wrong("has 'phrases' that are not a list of phrases for each caption")
            return []
        if len(phrases) != captions:
            self.wrong(f"has {len(phrases)} lists of phrases for {captions} captions")
            return []
        size = self._size() if {"width", "height"} <= self._entry.keys() else {}
        return [{"phrases": of, **size} for of in phrases]

    def _size(self) -> dict[str, Any]:
        size = [self._entry["width"], self._entry["height"]]
        if not all(isinstance(side, int | float) and not isinstance(side, bool) and side > 0 for side in size):
            self.wrong(f"has width and height {size}; give pixels")
        return {"image_size": size}


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "a text" if value else "an empty text"
    return {bool: "true or false", list: "a list", dict: "an object"}.get(type(value), f"{value!r}")
