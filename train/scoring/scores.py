"""Kept score matrices, `matrix.npy` and `ids.json` of a folder: opened, written whole, averaged to an ensemble."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, Protocol, cast

import crc32c
import numpy as np

from config.errors import DataError
from data.files import crc_of, open_array, read_json, replace_atomically, write_array, write_json
from train.scoring.recall import Array, Floats, Ints

ENSEMBLE = "-ensemble"
"""Behind the name of a split: the entry and the score folder of several models' mean."""

TWO_STAGE = "-two-stage"
"""Behind the name of a split: the entry and the score folder of candidates alone."""

MATRIX, IDS = "matrix.npy", "ids.json"
CANDIDATES = "candidates.npy"
"""In place of MATRIX where only candidates have a score and all other pairs -inf: for nobody who wants them all."""
CHECKSUMS = "crc32c"
REMEDY = "evaluate again, or name a folder that an evaluation wrote"
Facts = dict[str, Any]
_BLOCK_VALUES = 1 << 21  # of each matrix that is averaged, so much at a time


class Pairs(Protocol):
    """What the rows and columns of a score matrix are: names, and the row `owner [texts]` of each column."""

    @property
    def images(self) -> list[str]: ...
    @property
    def texts(self) -> list[str]: ...
    @property
    def owner(self) -> Ints: ...


@dataclass(frozen=True)
class Scores:
    """A split's score matrix `[images, texts]` (a memory map), the names of both, and `owner [texts]`."""

    matrix: Array
    images: list[str]
    texts: list[str]
    owner: Ints


def open_scores(folder: Path, file: str = MATRIX) -> Scores:
    """The matrix and names that are kept in `folder`.

    Args:
        file: MATRIX, or CANDIDATES for one that has scores of candidates alone.

    Raises:
        DataError: one of the files is missing, damaged, or does not fit the other.
    """
    try:
        matrix = open_array(folder / file)
    except (ValueError, OSError) as error:
        raise DataError(f"{folder / file}: no score matrix ({error}); {REMEDY}") from None
    ids = read_json(folder / IDS, REMEDY)
    lacking = [name for name in ("images", "texts", "owner") if not isinstance(ids, dict) or name not in ids]
    if lacking:
        raise DataError(f"{folder / IDS}: lacks {lacking[0]}; {REMEDY}")
    if CHECKSUMS in ids and ids[CHECKSUMS] != _checksums(folder / file, ids):
        raise DataError(f"{folder}: {file} and {IDS} are not as they were written, some of it has changed; {REMEDY}")
    images, texts = list(map(str, ids["images"])), list(map(str, ids["texts"]))
    if matrix.shape != (len(images), len(texts)) or len(ids["owner"]) != len(texts):
        raise DataError(
            f"{folder}: {file} has shape {matrix.shape}, {IDS} names {len(images)} images and {len(texts)} texts "
            f"with {len(ids['owner'])} owners; {REMEDY}"
        )
    return Scores(matrix, images, texts, np.asarray(ids["owner"], np.int64))


def write_scores(place: Path, matrix: Array, of: Pairs, origin: str, two_stage: Facts | None = None) -> None:
    """Write the matrix and its names into `place`, each whole or not at all, the names last.

    Args:
        two_stage: what is known of the candidates, if the matrix has no other scores; it is then kept as CANDIDATES.
    """
    with _naming(place, of, origin, two_stage):
        write_array(place / (CANDIDATES if two_stage else MATRIX), matrix)


def read_origin(place: Path, file: str = MATRIX) -> str | None:
    """Which weights and pairs the matrix kept in `place` came from; None without one."""
    whole = (place / file).exists() and (place / IDS).exists()
    ids = read_json(place / IDS, REMEDY) if whole else None
    return ids.get("origin") if isinstance(ids, dict) else None


def find_earlier_matrix(place: Path, file: str, origin: str, said: Callable[[str], object]) -> Array | None:
    """The matrix of this origin that is kept in `place`; None where there is none, or, as is `said`, a damaged one."""
    try:
        return open_scores(place, file).matrix if read_origin(place, file) == origin else None
    except DataError as error:
        said(f"scoring again: {error}")
        return None


def read_two_stage(place: Path) -> Facts | None:
    """What is known of the candidates that alone have scores in `place`; None where all pairs have."""
    return cast("Facts | None", read_json(place / IDS, REMEDY).get("two_stage"))


def write_ensemble(place: Path, folders: Sequence[Path]) -> Scores:
    """The mean of the matrices kept in `folders`, written into `place` and opened from there.

    It is kept in float64: rounded to the type of its parts, different means would become ties. Only blocks of rows
    are in memory.

    Raises:
        DataError: a folder holds no matrix, or two are not of the same pairs in the same order.
    """
    members = [open_scores(folder) for folder in folders]
    for (one, ours), (other, theirs) in pairwise(zip(folders, members, strict=True)):
        _check_alike(one, ours, other, theirs)
    place.mkdir(parents=True, exist_ok=True)
    matrices = [member.matrix for member in members]
    origin = " + ".join(f"{read_origin(folder)}" for folder in folders)
    with _naming(place, members[0], origin), replace_atomically(place / MATRIX) as beside:
        images, texts = matrices[0].shape
        whole = np.lib.format.open_memmap(beside, "w+", np.float64, (images, texts))
        step = max(1, _BLOCK_VALUES // texts)
        for start in range(0, images, step):
            whole[start : start + step] = mean_scores([matrix[start : start + step] for matrix in matrices])
        whole.flush()
    return open_scores(place)


def mean_scores(matrices: Sequence[Array]) -> Floats:
    """The mean of score matrices (or of the same rows of them), added up in float64."""
    total = np.zeros(matrices[0].shape, np.float64)
    for matrix in matrices:
        total += matrix
    return total / len(matrices)


@contextmanager
def _naming(place: Path, of: Pairs, origin: str, two_stage: Facts | None = None) -> Iterator[None]:
    """Without names while the matrix is replaced: what is half replaced is not used again."""
    (place / IDS).unlink(missing_ok=True)
    yield
    names = {"images": of.images, "texts": of.texts, "owner": of.owner.tolist(), "origin": origin}
    names |= {"two_stage": two_stage} if two_stage else {}
    write_json(place / IDS, names | {CHECKSUMS: _checksums(place / (CANDIDATES if two_stage else MATRIX), names)})


def _checksums(matrix: Path, ids: Facts) -> list[int]:
    """CRC32C of the matrix and of all that is told of it."""
    told = json.dumps({name: value for name, value in ids.items() if name != CHECKSUMS}, sort_keys=True)
    return [crc_of(matrix), crc32c.crc32c(told.encode())]


def _check_alike(one: Path, ours: Scores, other: Path, theirs: Scores) -> None:
    """Raise DataError with the first image, text or owner in which two kept matrices differ."""
    owners = ([scores.images[row] for row in scores.owner] for scores in (ours, theirs))
    lists = {
        "image": (ours.images, theirs.images),
        "text": (ours.texts, theirs.texts),
        "the image of text": tuple(owners),
    }
    for what, pair in lists.items():
        if pair[0] != pair[1]:
            at, mine, its = next((at, *names) for at, names in enumerate(zip_longest(*pair)) if len({*names}) > 1)
            raise DataError(
                f"{one} and {other}: {what} {at} is {mine or 'absent'} in the first and {its or 'absent'} in the "
                "second; give scores of the same split, evaluated on the same stores"
            )
