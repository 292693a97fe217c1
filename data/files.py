"""Small files written atomically: beside the target, then renamed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import crc32c
import numpy as np
from numpy.typing import NDArray

from config.errors import DataError

AT_ONCE = 1 << 24


def read_bytes(path: Path, remedy: str) -> bytes:
    """A file's content; raises DataError with its name and `remedy` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from error


def read_json(path: Path, remedy: str = "pack or copy the store again") -> Any:
    """A JSON file's content; raises DataError with its name and `remedy` where it is missing or not JSON."""
    return parse_json(path, read_bytes(path, remedy), remedy)


def parse_json(path: Path, content: bytes, remedy: str) -> Any:
    """What the content of a JSON file says; raises DataError with the file's name and `remedy` where it is not JSON."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: of a million brackets, say
        raise DataError(f"{path} is not JSON ({error}); {remedy}") from error


def crc_of(path: Path) -> int:
    """CRC32C of a file's bytes, a part at a time."""
    total = 0
    with path.open("rb") as file:
        while part := file.read(AT_ONCE):
            total = crc32c.crc32c(part, total)
    return total


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Give a place beside `path` to write to; what is there takes its place once it was written without an error.

    All of it is on disk before, so that not even a lost power supply leaves a part of it under this name.
    """
    beside = path.with_name(path.name + ".partial")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    except OSError as error:  # that of a full disk tells no name
        error.filename = error.filename or str(path)
        raise


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, content: str) -> None:
    """A reader sees the old file or the new one."""
    with replace_atomically(path) as beside:
        beside.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """A JSON file; `indent` is for those that people read."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent))


def open_array(path: Path, mode: Literal["r", "r+", "c"] = "r") -> np.memmap[Any, np.dtype[Any]]:
    """A `.npy` file, memory-mapped; raises ValueError or OSError where it is none, or not whole.

    `numpy.load` would also open archives, and hand over something else than an array.
    """
    try:
        return np.lib.format.open_memmap(path, mode)
    except (OverflowError, TypeError, MemoryError, SyntaxError, TokenError) as error:
        raise ValueError(f"its header says nonsense: {error}") from error


def write_array(path: Path, values: NDArray[Any]) -> None:
    """A `.npy` file."""
    with replace_atomically(path) as beside, beside.open("wb") as file:
        np.save(file, values)


def write_checked_array(path: Path, values: NDArray[Any]) -> None:
    """A `.npy` file with the CRC32C of its bytes behind them, where other readers of the format do not look."""
    content = io.BytesIO()
    np.save(content, values)
    with replace_atomically(path) as beside:
        beside.write_bytes(content.getbuffer().tobytes() + crc32c.crc32c(content.getbuffer()).to_bytes(4, "little"))


def read_checked_array(path: Path) -> NDArray[Any]:
    """What `write_checked_array` wrote; raises DataError where it is missing or not whole."""
    remedy = "remove it and start again"
    content = memoryview(read_bytes(path, remedy))
    if crc32c.crc32c(content[:-4]).to_bytes(4, "little") != content[-4:]:
        raise DataError(f"{path} is not whole: its checksum does not match its bytes; {remedy}")
    values: NDArray[Any] = np.load(io.BytesIO(content[:-4]), allow_pickle=False)
    return values
