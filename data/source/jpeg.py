"""Regions of pictures without downloaded weights: read a picture, propose boxes, describe them.

This is the default for demonstrations and small machines. A real detector has the same interface: pixels in,
boxes and features out.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.records.pixels import MOST_PIXELS, decode
from data.source.region_features import RAW_DIM, describe
from data.source.whitener import Whitener
from data.stores.picture_files import ENDINGS

__all__ = ["RAW_DIM", "Whitener", "describe", "iterate_pictures", "picture_names", "propose_boxes", "read_picture"]

# Columns, rows and the share of the picture's width and height that one box of this grid covers.
GRIDS = (
    (1, 1, 1.0, 1.0),
    (2, 2, 0.6, 0.6),
    (3, 3, 0.45, 0.45),
    (3, 1, 0.4, 1.0),
    (1, 3, 1.0, 0.4),
    (4, 4, 0.3, 0.3),
)


def propose_boxes(width: int, height: int, max_regions: int = 36) -> NDArray[np.float32]:
    """Overlapping boxes on grids from coarse to fine, the whole picture first: 36, or the first max_regions.

    Returns:
        [n, 4] float32, x1 y1 x2 y2 in pixels, all inside the picture.
    """
    boxes = []
    for columns, rows, box_width, box_height in GRIDS:
        x, y = np.meshgrid(np.linspace(0, 1 - box_width, columns), np.linspace(0, 1 - box_height, rows))
        boxes.append(np.stack([x, y, x + box_width, y + box_height], axis=-1).reshape(-1, 4))
    shares = np.concatenate(boxes)[:max_regions]
    size = np.array([width, height, width, height], np.float32)
    return np.minimum(shares.astype(np.float32) * size, size)


def read_picture(
    data: bytes, name: str = "picture", max_side: int | None = None, max_pixels: int = MOST_PIXELS
) -> NDArray[np.uint8]:
    """Decode to RGB as a viewer would show it: turned by its EXIF mark, transparency on white.

    Args:
        data: the bytes of the file.
        name: what to call it in an error.
        max_side: if given, a JPEG may be decoded at a half, quarter or eighth of its size, as long as its
            longer side keeps this many pixels; several times faster for photographs.
        max_pixels: a larger picture is refused.
    Returns:
        [h, w, 3] uint8.
    Raises:
        DataError: the bytes are empty, cut off, or no picture.
    """
    try:
        return np.array(decode(data, max_side, max_pixels))
    except DataError as error:
        raise DataError(f"{name} {error}") from error


def picture_names(source: str | Path) -> list[str]:
    """Names of the pictures in a folder (all below it, sorted) or a tar archive (in its order); none is read.

    Names are paths inside the source with forward slashes. Other files and hidden ones are passed over.

    Raises:
        DataError: there is no such source, it holds no picture, or the archive is damaged.
    """
    names = [name for name, _ in _pictures(Path(source))]
    if not names:
        raise DataError(f"no pictures in {source}: looked for {' '.join(sorted(ENDINGS))}")
    return names


def iterate_pictures(source: str | Path, only: Container[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the pictures in a folder or a tar archive, as `picture_names` has them.

    Args:
        only: names of those that are wanted; None takes all.

    Raises:
        DataError: as `picture_names`.
    """
    empty = True
    for name, read in _pictures(Path(source)):
        empty = False
        if only is None or name in only:
            yield name, read()
    if empty:
        raise DataError(f"no pictures in {source}: looked for {' '.join(sorted(ENDINGS))}")


def _pictures(source: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names of pictures with what reads each, as long as the next one is not asked for."""
    return _from_folder(source) if source.is_dir() else _from_tar(source)


def _from_folder(folder: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(filter(_is_picture, names)):
        yield name, (folder / name).read_bytes


def _from_tar(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if not path.is_file():
        raise DataError(f"no folder or tar archive at {path}")
    with _of_archive(path), tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and _is_picture(member.name):
                yield member.name.removeprefix("./"), partial(_read_member, path, archive, member)


def _read_member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _of_archive(path):
        file = archive.extractfile(member)
        return file.read() if file is not None else b""


@contextmanager
def _of_archive(path: Path) -> Iterator[None]:
    """Errors inside are of this archive."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        why = str(error).partition("\n")[0].removesuffix(":")
        raise DataError(f"{path} is no tar archive, or it is cut off ({why}): fetch it again") from error


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part != "." for part in path.parts)
    return path.suffix.lower() in ENDINGS and not hidden
