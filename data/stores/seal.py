"""The seal of a finished store: checksums of its small files, and of the keys in data.mdb.

Records bear checksums of their own. Stores of others come without a seal; what is damaged in them may go unseen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import crc32c

from config.errors import DataError
from data.files import parse_json, read_bytes, read_json, write_json
from data.stores import lmdb_pages

SEAL, DATA = "seal.json", "data.mdb"
UNSEALED = (".mdb", ".jsonl", ".partial")
"""Endings of the records themselves and of what a packer removes."""
REMEDY = "copy or pack the store again"
SHOWN = 40
"""Characters of a wrong value that are shown."""


def write_seal(folder: Path, beside: Iterable[Path] = ()) -> None:
    """Seal all files of a store's folder, and those `beside` it that belong to it."""
    inside = (path for path in folder.iterdir() if path.suffix not in UNSEALED and path.name != SEAL)
    files = {os.path.relpath(path, folder): _sum(path.read_bytes()) for path in sorted((*inside, *beside))}
    data = folder / DATA
    noted = [data.stat().st_size, lmdb_pages.checksum(data, values=True), lmdb_pages.checksum(data, values=False)]
    write_json(folder / SEAL, {"files": files, "data": noted})


def is_sealed(folder: Path, path: Path | None = None) -> bool:
    """Whether a store has a seal, or one that covers this file, which may be missing."""
    return (folder / SEAL).is_file() and (path is None or os.path.relpath(path, folder) in _read(folder)["files"])


def check_content(path: Path, content: bytes, folder: Path | None = None) -> None:
    """Raise DataError where a file of the store in `folder` (by default its own) is not as it was sealed."""
    folder = folder or path.parent
    noted = _read(folder).get("files", {}).get(os.path.relpath(path, folder))
    if noted is not None and noted != _sum(content):
        raise DataError(
            f"{path} is not as it was packed ({len(content)} of {noted[0]} bytes, or changed ones); {REMEDY}, "
            f"{_or_unseal(folder)}"
        )


def sealed_json(path: Path, folder: Path | None = None) -> Any:
    """What is in a JSON file of the store in `folder` (by default its own); DataError: it is damaged or not JSON."""
    content = read_bytes(path, REMEDY)
    check_content(path, content, folder)
    return parse_json(path, content, REMEDY)


def sealed_numbers(path: Path, folder: Path | None = None) -> dict[str, int]:
    """A whole number for each name, from a file of the store in `folder`; DataError: it is damaged or another kind."""
    content = sealed_json(path, folder)
    if not isinstance(content, dict):
        raise DataError(f"{path} is no JSON object with a whole number for each name; {REMEDY}")
    wrong = [name for name, value in content.items() if type(value) is not int or abs(value) >= 1 << 63]
    if wrong:
        first = f"{wrong[0]!r} has {str(content[wrong[0]])[:SHOWN]!r}"
        raise DataError(f"{path} has a whole number for each name, but {len(wrong)} have none: {first}; {REMEDY}")
    return content


def check_keys(folder: Path) -> None:
    """Raise DataError where the store's data.mdb leads to other records than it was sealed with.

    Damage to what stands among the keys, but leads nowhere, is left to the records' own checksums.
    """
    path = folder / DATA
    noted = _read(folder).get("data")
    if noted is None:
        return
    size, quick, careful = noted
    present = path.stat().st_size
    if present != size:
        what = "cut short" if present < size else "not as it was packed"
        raise DataError(f"{path} is {what}: {present} of {size} bytes; copy it again, {_or_unseal(folder)}")
    try:
        right = lmdb_pages.checksum(path, values=True) == quick or lmdb_pages.checksum(path, values=False) == careful
    except lmdb_pages.TornPages as error:
        raise DataError(f"{path} is damaged: it {error}; {REMEDY}") from error
    if not right:
        raise DataError(f"{path}: its keys are not those that were packed; {REMEDY}, {_or_unseal(folder)}")


def _or_unseal(folder: Path) -> str:
    """What else can be done about a store that was changed on purpose."""
    return f"or remove {folder / SEAL} if you changed it yourself"


def _read(folder: Path) -> dict[str, Any]:
    """A store's seal; empty where it has none."""
    path = folder / SEAL
    if not path.is_file():
        return {}
    seal = read_json(path, REMEDY)
    try:
        whole = all(len(noted) == 2 for noted in seal["files"].values()) and len(seal["data"]) == 3
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise DataError(f"{path} is damaged; {REMEDY}")
    return dict(seal)


def _sum(content: bytes) -> list[int]:
    return [len(content), crc32c.crc32c(content)]
