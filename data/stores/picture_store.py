"""Picture stores: encoded pictures by image name, decoded and cropped to squares of pixels on reading."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from config.errors import DataError
from config.paths import Kind, describe_mismatch, inspect_path
from data.draws import generator
from data.files import write_json
from data.records.codec import DamagedRecord, StoredPicture, decode_picture
from data.records.codec import encode_picture as encode_record
from data.records.pixels import MOST_PIXELS, crop_square, decode, draw_crop, resize_whole, shrink
from data.stores.image_source import stored_meta, stored_names
from data.stores.image_writer import KEYS, note_options
from data.stores.lmdb_store import LmdbStore, missing
from data.stores.lmdb_writer import LmdbWriter
from data.stores.variants import PICTURES, store_variants

__all__ = ["PICTURES", "PictureStore", "PictureView", "PictureWriter", "encode_picture"]

VERSION = 1
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class PictureView:
    """How pictures are looked at; raises ValueError where side or smallest_crop is out of range.

    Attributes:
        side: of the square they become, in pixels.
        smallest_crop: 0 resizes whole pictures; otherwise a random part of at least this share of the area is taken,
            and mirrored or not.
        cache_mb: mebibytes of pixels of whole pictures that a process keeps, so that it decodes them once.
    """

    side: int
    smallest_crop: float = 0.0
    cache_mb: int = 0

    def __post_init__(self) -> None:
        if self.side < 1 or not 0 <= self.smallest_crop <= 1:
            told = f"side {self.side} and smallest_crop {self.smallest_crop}"
            raise ValueError(f"{told}: give at least 1, and a share of 1")

    def open(self, folder: str | Path) -> PictureStore:
        """The pictures of a split, looked at in this way."""
        return PictureStore(folder, self)


class PictureStore:
    """The pictures of one split, `img_db/<split>/pictures`: each image is one row of pixels [3, side, side].

    Nothing but file names is looked at before the first use. The store may be pickled and forked, and threads may
    read it at once.

    Raises:
        DataError: the folder holds no pictures (the message lists what it holds).
    """

    has_boxes = False
    dtype = np.dtype(np.uint8)

    def __init__(self, folder: str | Path, view: PictureView) -> None:
        self.view = view
        self.folder = Path(folder)
        self.path = self.folder / PICTURES
        if not (self.path / "data.mdb").is_file():
            remedy = "check img_db or pack them with scripts/build_imgdb.py pictures"
            there = store_variants(self.folder) if inspect_path(self.folder).kind is Kind.IMAGES else ()
            what = (
                f", but {', '.join(there)}; {remedy}"
                if there
                else f": {describe_mismatch(self.folder, Kind.IMAGES, remedy)}"
            )
            raise DataError(f"{self.folder} holds no {PICTURES}{what}")
        self.dim = view.side
        self.row_shape = (3, view.side, view.side)
        self._store = LmdbStore(self.path)
        self._verified: set[str] = set()
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        self._room = 0 if view.smallest_crop else view.cache_mb * MEBIBYTE // (3 * view.side**2)

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureStore, (self.folder, self.view)

    @cached_property
    def names(self) -> list[str]:
        """All image names in the order of the store's own list."""
        return stored_names(self._store)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What our packer noted; empty for others' stores."""
        return stored_meta(self._store)

    def index_counts(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Ones [n]: a picture is one row; raises DataError for an image that is not in the store."""
        absent = next((name for name in names if name not in self._known), None)
        if absent is not None:
            raise missing(self.path, absent, self.names)
        return np.ones(len(names), np.int64)

    counts = index_counts

    def stored(self, name: str) -> StoredPicture:
        """A picture's file as it was packed; its checksum is compared when this process first reads it.

        Raises:
            DataError: no such image; a DamagedRecord, if its bytes are not what was written.
        """
        picture, _ = self._record(name, verify=name not in self._verified)
        self._verified.add(name)
        return picture

    def picture(self, name: str) -> Image.Image:
        """A picture in RGB and full size, as a viewer would show it; raises what `stored` raises."""
        return self._decoded(name, self.stored(name))

    def _record(self, name: str, verify: bool) -> tuple[StoredPicture, bool]:
        try:
            return decode_picture(self._store.get(name), verify)
        except DamagedRecord as error:
            raise self._damage(name, error) from error

    def _decoded(self, name: str, picture: StoredPicture) -> Image.Image:
        try:
            return decode(picture.data)
        except DataError as error:
            raise self._damage(name, error) from error

    def _damage(self, name: str, error: DataError) -> DamagedRecord:
        return DamagedRecord(f"{self.path}: record {name} is damaged ({error}); copy or pack the store again")

    def read_into(self, name: str, features: NDArray[Any], boxes: NDArray[np.float32], key: int | None = None) -> None:
        """Write a picture's pixels into `features` [1, 3, side, side], and zeros into `boxes` [1, 7].

        Args:
            key: decides which part is taken, and whether it is mirrored; without one the picture is taken whole, as
                whoever looks at a training store without training on it wants it.

        Raises:
            DamagedRecord: the record's bytes are not what was written, or no picture; names store and image.
        """
        boxes[...] = 0
        if key is None or not self.view.smallest_crop:
            features[0] = self._whole(name)
            return
        picture = self.picture(name)
        crop = draw_crop(picture.width, picture.height, generator(key, "crop"), self.view.smallest_crop)
        features[0] = crop_square(picture, crop, self.view.side)

    def _whole(self, name: str) -> NDArray[np.uint8]:
        kept = self._pixels.get(name)
        if kept is not None:
            return kept
        pixels = resize_whole(self.picture(name), self.view.side)
        # First come, first kept: evaluation reads all pictures in turn, which would push out any other choice. Threads
        # may keep a picture each too many; a lock could be left shut in a forked process.
        if len(self._pixels) < self._room:
            self._pixels[name] = np.ascontiguousarray(pixels)
        return pixels

    def damaged(self, names: Iterable[str], decoded: bool = False) -> list[tuple[str, str]]:
        """Read every byte of the named records; (name, reason) of those that cannot be used.

        Args:
            decoded: decode every picture, not only those without a checksum. Our packer has decoded what it stored.
        """
        found = []
        for name in names:
            try:
                picture, has_checksum = self._record(name, verify=True)
                if decoded or not has_checksum:
                    self._decoded(name, picture)
            except DataError as error:
                found.append((name, str(error)))
        return found

    def close(self) -> None:
        """Let go of the store's environment and of the pixels kept."""
        self._store.close()
        self._pixels.clear()


def encode_picture(
    data: bytes, short_side: int | None = None, quality: int = 90, max_pixels: int = MOST_PIXELS
) -> bytes:
    """A picture's file as a record; pure, so any process may run it. It is decoded once to see that it can be.

    Args:
        data: kept as it is, whatever its format.
        short_side: a picture whose shorter side has more pixels is kept as a smaller JPEG of `quality` instead.
        max_pixels: a larger picture is refused.

    Raises:
        DataError: it cannot be decoded; says why, not which picture it is.
    """
    picture = decode(data, max_pixels=max_pixels)
    if short_side is not None and min(picture.size) > short_side:
        data = shrink(picture, short_side, quality)
        picture = decode(data)
    return encode_record(StoredPicture(data, picture.height, picture.width))


class PictureWriter:
    """Writes a picture store, complete or absent; what a killed packing left behind is taken up again.

    Args:
        folder: the split's folder; the store becomes `<folder>/pictures`.
        meta: what the description says besides kind, codec, version, pillow and count.

    Raises:
        DataError: the store exists, was begun with other options, or another process is packing it.
    """

    def __init__(self, folder: str | Path, meta: Mapping[str, Any] | None = None) -> None:
        self._writer = LmdbWriter(Path(folder) / PICTURES)
        self._meta = {
            "kind": PICTURES, "codec": "jpeg", "version": VERSION, "pillow": PIL.__version__, **(meta or {}),
        }  # fmt: skip
        note_options(self._writer, self._meta)
        self._names = set(self._writer.keys()) - {KEYS}

    @property
    def path(self) -> Path:
        """The store's folder once it is complete."""
        return self._writer.path

    def done(self) -> set[str]:
        """Names of the pictures that are stored already."""
        return set(self._names)

    def put(self, name: str, record: bytes) -> None:
        """Store a record that `encode_picture` made; raises DataError where no image can have this name."""
        if name == KEYS:
            raise DataError(f"{name} is what a store calls the list of its images; rename the picture")
        self._writer.put(name, record)
        self._names.add(name)

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._writer.release()
            return
        names = sorted(self._names)
        with self._writer.finishing():
            self._writer.put(KEYS, json.dumps(names).encode())
            write_json(self._writer.partial / "meta.json", {"count": len(names), **self._meta})
