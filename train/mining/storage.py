"""Files of a mining job: arrays whose room is taken before they are filled, and tensors written beside and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from config.errors import DataError, Failure
from data.files import replacing


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn a failure to write below `path` into one line; what is finished stays."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise Failure(
            f"{path}: cannot be written ({reason}); free space or name another folder, and start again with the same "
            "command: what is done is kept"
        ) from error


def reserve(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Make a `.npy` file of this shape with all its room taken, so that no later write meets a full disk.

    One that is there already with this shape is left as it is.

    Raises:
        Failure: there is not enough room.
    """
    if path.exists() and fits(path, shape, np.dtype(dtype)):
        return
    with saving(path), replacing(path) as beside:
        try:
            with beside.open("wb") as file:
                kind = np.lib.format.dtype_to_descr(np.dtype(dtype))
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                size = file.tell() + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def fits(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
    """Whether a file holds a whole array of this shape and type."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return found.shape == shape and found.dtype == dtype


def opened(path: Path, writable: bool = False) -> np.memmap[Any, np.dtype[Any]]:
    """A `.npy` file, memory-mapped; what is written to one that is not `writable` never reaches the disk."""
    # "c", copy on write, because torch warns of arrays that it cannot be trusted with.
    found: np.memmap[Any, np.dtype[Any]] = np.load(path, mmap_mode="r+" if writable else "c", allow_pickle=False)
    return found


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A file of named tensors, whole or not at all."""
    with saving(path), replacing(path) as beside:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside)
        except (OSError, SafetensorError):
            beside.unlink(missing_ok=True)
            raise


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors; raises DataError where the file is not whole."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not whole ({str(error).splitlines()[0]}); remove it and start again") from error


def load_some(path: Path, names: Sequence[str]) -> list[Tensor]:
    """Some of a file's tensors; raises DataError where it is not whole."""
    try:
        with safe_open(path, "pt") as file:
            return [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not whole ({str(error).splitlines()[0]}); remove it and start again") from error


def sync(path: Path) -> None:
    """Force a file to the disk."""
    with saving(path), path.open("rb") as file:
        os.fsync(file.fileno())
