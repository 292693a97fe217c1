"""Text files of the user: UTF-8, plain or gzipped; what is no text is reported with its line."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from config.errors import DataError

SHOWN = 5
"""Faults of a file that are told one by one; the rest are counted."""
NO_TEXT = re.compile("[\0\ud800-\udfff]")
UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|\0[^\0]\0[^\0]|[^\0]\0[^\0]\0")
"""How such files begin, with their mark or, of western letters, without."""
GZIPPED = b"\x1f\x8b"


class Faults:
    """All that is wrong in a file, told at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: list[str] = []

    def add(self, fault: str) -> None:
        """Note a fault, such as "line 3 lacks 'image_id'"."""
        self._told.append(fault)

    def refuse(self) -> None:
        """Raise DataError where there were any."""
        if self._told:
            more = f"; and {len(self._told) - SHOWN} more" if len(self._told) > SHOWN else ""
            raise DataError(f"{self.path}, {'; '.join(self._told[:SHOWN])}{more}")


def read_text(path: Path) -> str:
    """A UTF-8 text file, plain or gzipped, without the mark that some editors begin it with.

    Raises:
        DataError: it is missing, or no such text.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        told = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read as text ({told}); check the file") from error
    if UTF_16.match(content):
        raise DataError(f"{path} cannot be read as text (it is UTF-16); save it as UTF-8")
    if content.startswith(GZIPPED):
        raise DataError(f"{path} cannot be read as text (it is gzipped); give its name the ending .gz")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        told = f"line {line} holds the byte 0x{content[error.start]:02x}, which is not UTF-8"
        raise DataError(f"{path} cannot be read as text ({told}); save it as UTF-8") from error


def read_lines(path: Path) -> list[str]:
    """Lines as editors count them: a caption may hold characters that Python's splitlines() breaks at.

    Raises:
        DataError: as `read_text`, or a line holds what is no text.
    """
    lines = read_text(path).split("\n")
    if not lines[-1]:
        lines.pop()
    faults = Faults(path)
    for at, line in enumerate(lines, start=1):
        if wrong := find_non_text(line):
            faults.add(f"line {at} {wrong}")
    faults.refuse()
    return [line.removesuffix("\r") for line in lines]


def find_non_text(text: str) -> str:
    """What is in `text` that no text holds, a null character or half of a surrogate pair; '' where nothing is."""
    found = NO_TEXT.search(text)
    return f"holds U+{ord(found[0]):04X}, which is no text; remove it" if found else ""


def parse_json(text: str) -> Any:
    """The value of a JSON text; raises ValueError where it is none, or an object has two fields of one name."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):
            raise ValueError("a number has thousands of digits") from error
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def read_json_text(path: Path) -> Any:
    """The value of a JSON file, plain or gzipped; raises DataError where it is none."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        remedy = "name it .jsonl if it has an object a line" if "Extra data" in str(error) else "mend it"
        raise DataError(f"{path} is not JSON ({error}); {remedy}, or copy it again") from error
