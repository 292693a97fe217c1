"""Files of a mining job: preallocated arrays, and tensors written beside and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import torch
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from config.errors import DataError, Failure
from data.files import open_array, replace_atomically


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
    with saving(path), replace_atomically(path) as beside:
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
        found = open_array(path)
    except (OSError, ValueError):
        return False
    return found.shape == shape and found.dtype == dtype


def open_memmap(path: Path, writable: bool = False) -> np.memmap[Any, np.dtype[Any]]:
    """A `.npy` file, memory-mapped; what is written to one that is not `writable` never reaches the disk."""
    # "c", copy on write, because torch warns of arrays that it cannot be trusted with.
    return open_array(path, "r+" if writable else "c")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A file of named tensors, whole or not at all."""
    with saving(path), replace_atomically(path) as beside:
        try:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(whole, beside, {name: _checksum(tensor) for name, tensor in whole.items()})
        except (OSError, SafetensorError):
            beside.unlink(missing_ok=True)
            raise


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors; raises DataError where the file is not whole."""
    return _loaded(path, None)


def load_some(path: Path, names: Sequence[str]) -> list[Tensor]:
    """Some of a file's tensors; raises DataError where it is not whole."""
    return list(_loaded(path, names).values())


def _loaded(path: Path, names: Sequence[str] | None) -> dict[str, Tensor]:
    """Tensors by name, all where none are named, each compared with its checksum."""
    try:
        with safe_open(path, "pt") as file:
            noted = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in (names or file.keys())}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not whole ({str(error).splitlines()[0]}); remove it and start again") from error
    for name, tensor in found.items():
        if noted.get(name) != _checksum(tensor):
            raise DataError(f"{path}: not whole ({name} does not match its checksum); remove it and start again")
    return found


def _checksum(tensor: Tensor) -> str:
    """CRC32C of a tensor's bytes, with its type and shape."""
    content = tensor.reshape(-1).view(torch.uint8).numpy().data
    return f"{tensor.dtype} {list(tensor.shape)} {crc32c.crc32c(content)}"


def sync(path: Path) -> None:
    """Force a file to the disk."""
    with saving(path), path.open("rb") as file:
        os.fsync(file.fileno())
