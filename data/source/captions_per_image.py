"""The number of captions of each image in a precomputed folder, found in its files or given by a flag."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError, DataError

LOOKED_AT = 64
"""Rows of an array that are compared: enough to tell repeated ones, and little to read."""
FLAG = "--captions_per_image"


def captions_per_image(
    path: Path, captions: int, rows: NDArray[Any] | None, ids: Sequence[str] | None, said: int = 0
) -> int:
    """Captions of each image, of which all have as many.

    With fewer rows than captions they are an image each. As many are either an image each or equal ones for the
    captions of an image: ids tell (one an image, or as often as it has captions), or else the first rows themselves.

    Args:
        path: the file of the captions, for what is said.
        rows: the array of features; None where the folder has none, so that ids must tell.
        ids: lines of the ids file.
        said: what the user says, 0 for nothing; the files must agree.

    Raises:
        ConfigError: nothing tells, or what does disagrees.
        DataError: images and captions do not fit.
    """
    if said:
        return _agreed(path, captions, rows, said)
    if rows is not None and len(rows) != captions:
        return _divided(path, captions, len(rows), "rows of its array")
    told = {_by_ids(path, captions, ids), None if rows is None else _run_length(_runs(rows), captions)} - {None}
    if len(told) != 1:
        array = "no array" if rows is None else f"an array of {len(rows)} rows"
        beside = f"{array} and {'no' if ids is None else len(ids)} ids"
        raise ConfigError(
            f"{path} has {captions} captions, beside it are {beside}, which do not tell how many an image has; "
            f"give {FLAG} N"
        )
    return told.pop() or 0


def _agreed(path: Path, captions: int, rows: NDArray[Any] | None, said: int) -> int:
    if said < 0:
        raise ConfigError(f"{FLAG} {said}: give how many captions each image has, or leave it out")
    if captions % said or (rows is not None and len(rows) not in (captions // said, captions)):
        array = "" if rows is None else f" and its array {len(rows)} rows"
        raise ConfigError(f"{FLAG} {said}: {path} has {captions} captions{array}, which does not fit; give another N")
    return said


def _divided(path: Path, captions: int, images: int, what: str) -> int:
    if not images or captions % images:
        raise DataError(
            f"{path} has {captions} captions, but there are {images} {what}: not as many for each image; give files of "
            "one split, all of it"
        )
    return captions // images


def _by_ids(path: Path, captions: int, ids: Sequence[str] | None) -> int | None:
    """What ids tell: fewer than captions are an image's each, as many are as often there as an image has captions."""
    if ids is None:
        return None
    if len(ids) != captions:
        return _divided(path, captions, len(ids), "ids")
    return _run_length([len(list(same)) for _, same in groupby(ids)], captions)


def _runs(rows: NDArray[Any]) -> list[int]:
    """How many rows in a row are equal, of those looked at; the last, which may go on, only where it ends."""
    some = np.asarray(rows[:LOOKED_AT])
    changes = [at for at in range(1, len(some)) if not np.array_equal(some[at], some[at - 1], equal_nan=True)]
    return np.diff([0, *changes, *([len(some)] if len(rows) == len(some) else [])]).tolist()


def _run_length(runs: list[int], captions: int) -> int | None:
    """The one length that runs have, if they have one that divides all captions."""
    lengths = set(runs)
    return lengths.pop() if len(lengths) == 1 and captions % runs[0] == 0 else None
