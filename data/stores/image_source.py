"""The interface of the images of a split, regions or pictures, that a joined index reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.stores.image_writer import KEYS, META
from data.stores.lmdb_store import LmdbStore
from data.stores.seal import is_sealed, sealed_json


class ImageSource(Protocol):
    """Images by name, each some rows of one shape: a region is a row of features, a picture is one row of pixels.

    It may be pickled and forked, and threads may read it at once.

    Attributes:
        folder, path: the split's folder, and the LMDB folder below it that is read.
        names: all images, in the order of the store's own list.
        meta: what its packer noted; empty for others' stores.
        has_boxes: whether rows have a place in their image; reading others yields boxes of zeros.
        dtype, row_shape: of one row.
        dim: what a model is built for: the width of features, or the side of pictures in pixels.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def path(self) -> Path: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def meta(self) -> dict[str, Any]: ...
    @property
    def has_boxes(self) -> bool: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def dim(self) -> int: ...
    @property
    def row_shape(self) -> tuple[int, ...]: ...

    def index_counts(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Rows that the index states for each name [n]."""

    def counts(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Rows that reading returns for each name [n]; raises DataError for an image that is not in the store."""

    def read_into(self, name: str, features: NDArray[Any], boxes: NDArray[np.float32], key: int | None = None) -> None:
        """Copy an image's first n rows into `features` [n, *row_shape] and `boxes` [n, 7].

        What is random about them depends on `key` alone. Raises DamagedRecord, which names store and image.
        """

    def damaged(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Read every byte of the named records; (name, reason) of those that cannot be used."""

    def close(self) -> None:
        """Let go of the store's environment."""


def stored_names(store: LmdbStore) -> list[str]:
    """All image names in the order of the store's own list; raises DataError where that list is damaged."""
    try:
        content = json.loads(bytes(store.get(KEYS)).decode())
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{store.path}: its list {KEYS} is damaged ({error}); pack it again") from error
    if not isinstance(content, list) or any(type(name) not in (str, int) for name in content):
        raise DataError(f"{store.path}: its list {KEYS} is no list of image names; pack it again")
    names = [str(name) for name in content]
    if is_sealed(store.path) and {*names, KEYS} != set(store.keys()):
        raise DataError(f"{store.path}: its list {KEYS} is not that of its records; copy or pack the store again")
    return names


def stored_meta(store: LmdbStore) -> dict[str, Any]:
    """What our packer noted (kind, dim, count, codec, version, ...); empty for others' stores."""
    path = store.path / META
    found = sealed_json(path) if path.is_file() or is_sealed(store.path, path) else {}
    if not isinstance(found, dict):
        raise DataError(f"{path} is no description of a store; pack or copy the store again")
    return found
