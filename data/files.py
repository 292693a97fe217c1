"""Small files that are there whole or not at all: written beside and renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError


def read_json(path: Path, remedy: str = "pack or copy the store again") -> Any:
    """A JSON file's content; raises DataError with its name and `remedy` where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); {remedy}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place beside `path` to write to; what is there takes its place once it was written without an error."""
    beside = path.with_name(path.name + ".partial")
    yield beside
    beside.replace(path)


def write_text(path: Path, content: str) -> None:
    """A reader sees the old file or the new one."""
    with replacing(path) as beside:
        beside.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """A JSON file; `indent` is for those that people read."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent))


def write_array(path: Path, values: NDArray[Any]) -> None:
    """A `.npy` file."""
    with replacing(path) as beside, beside.open("wb") as file:
        np.save(file, values)
