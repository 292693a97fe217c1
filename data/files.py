"""Small files that are there whole or not at all: written beside and renamed."""

from __future__ import annotations

import json
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


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """A reader sees the old file or the new one; `indent` is for files that people read."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(json.dumps(content, ensure_ascii=False, indent=indent), encoding="utf-8")
    beside.replace(path)


def write_array(path: Path, values: NDArray[Any]) -> None:
    """A `.npy` file."""
    beside = path.with_name(path.name + ".partial")
    with beside.open("wb") as file:
        np.save(file, values)
    beside.replace(path)
