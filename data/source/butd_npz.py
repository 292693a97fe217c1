"""Folders of `.npz` files, one an image, as bottom-up attention extractors write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from config.errors import DataError
from data.records.codec import DamagedRecord, decode_npz
from data.source.detector_output import BoxRule, regions_of

PLAIN = BoxRule()


def list_npz(folder: str | Path) -> list[Path]:
    """All `.npz` files of a folder, in order of name.

    Raises:
        DataError: there is no such folder, it holds none, or file names are no text.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; check the path")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise DataError(f"{folder} holds no .npz file; give the folder that the extractor wrote into")
    odd = [path.name for path in files if not path.name.isprintable()]
    if odd:
        more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise DataError(f"{folder} holds {odd[0]!r}{more}: no names of images, for they are no text; rename the files")
    return files


def read_npz(path: Path, rule: BoxRule = PLAIN) -> dict[str, NDArray[Any]]:
    """An extractor's arrays: features [n, d], norm_bb [n, 6], conf [n] or [n, 1], soft_labels, nbb, ...

    Both layouts of bottom-up attention are read: ours, and `x`, `bbox` in pixels, `num_bbox`, `image_w`, `image_h`. An
    `info` of Python objects is not read.

    Raises:
        DataError: the file is empty or damaged, or nothing tells in what its boxes are measured.
    """
    unread: list[str] = []
    try:
        with path.open("rb") as file:
            arrays = decode_npz(file, keep_scalars=True, objects=unread)
        return regions_of(arrays, rule, tuple(unread))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except DamagedRecord as error:
        raise DataError(str(error)) from error
