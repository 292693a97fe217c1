"""Image stores: region features and boxes by image name, in the published layouts or the native one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import crc32c
import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from data.records import codec as formats
from data.records.codec import Buffer, DamagedRecord
from data.records.native_record import Record, view_native
from data.records.regions import Codec, RegionRule, box_features
from data.stores.image_notes import misfit, noted_boxes, noted_dtype
from data.stores.image_source import stored_meta, stored_names
from data.stores.image_writer import CHECKSUMS
from data.stores.lmdb_store import LmdbStore, missing
from data.stores.seal import is_sealed, sealed_numbers
from data.stores.variants import find_variant

Verify = Literal["first", "always", "never"]
WANTED = frozenset(("features", "norm_bb"))


class Image(NamedTuple):
    """Features [n, d] in the stored type and boxes [n, 7] float32 of one image's counted regions."""

    features: NDArray[Any]
    boxes: NDArray[np.float32]


class _Rows(NamedTuple):
    """All stored regions of a record, as views where the format allows; boxes [n, 7], or norm_bb [n, 6]."""

    features: NDArray[Any]
    boxes: NDArray[Any]


def _view_published(buffer: Buffer, verify: bool) -> _Rows:
    return _checked(formats.decode_published(buffer, None if verify else WANTED))


def _view_compressed(buffer: Buffer, verify: bool) -> _Rows:
    return _checked(formats.decode_npz(buffer, None if verify else WANTED))


def _checked(arrays: formats.Arrays) -> _Rows:
    if not arrays.keys() >= WANTED:
        raise DamagedRecord(f"holds no {' and no '.join(sorted(WANTED - arrays.keys()))}")
    rows = _Rows(arrays["features"], arrays["norm_bb"])
    if rows.features.ndim != 2 or rows.boxes.shape != (len(rows.features), 6):
        raise DamagedRecord(f"features {rows.features.shape} and norm_bb {rows.boxes.shape} do not agree")
    return rows


_VIEW: dict[Codec, Callable[[Buffer, bool], Record | _Rows]] = {
    "native": view_native,
    "published": _view_published,
    "compressed": _view_compressed,
}


class ImageStore:
    """The images of one split, `img_db/<split>/`, seen through a rule for the number of regions.

    Nothing but file names is looked at before the first use; the store may be pickled and forked.

    Args:
        folder: holds LMDB folders such as `feat_th0.2_max100_min10` or `native_th0.2_max100_min10`.
        rule: thresholds; they choose the LMDB folder.
        verify: compare the checksum of native records at the first read of each image, always or never.
        codec: insist on one layout; by default native if it is there, else the published one the rule names.

    Raises:
        DataError: no folder for this rule (the message lists those there are).
    """

    def __init__(
        self,
        folder: str | Path,
        rule: RegionRule | None = None,
        verify: Verify = "first",
        codec: Codec | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.rule = rule or RegionRule()
        self.codec, self.path, self._counts_path = find_variant(self.folder, self.rule, codec)
        # Zip archives check themselves whenever they are read; published records have checksums if we packed them.
        self._verify = verify if self.codec != "compressed" else "never"
        self._verified: set[str] = set()
        self._store = LmdbStore(self.path)
        self._view = _VIEW[self.codec]
        self._counted: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageStore, (self.folder, self.rule, self._verify, self.codec)

    @cached_property
    def names(self) -> list[str]:
        """All image names in the order of the store's own list."""
        return stored_names(self._store)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What our packer noted (kind, dim, count, codec, version, ...); empty for others' stores."""
        return stored_meta(self._store)

    @cached_property
    def has_boxes(self) -> bool:
        """Whether it says where regions are; reading a store of features alone yields boxes of zeros."""
        return noted_boxes(self.path, self.meta)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type that holds its features without loss: float16, or float32 where its packer noted that."""
        return noted_dtype(self.path, self.meta)

    @cached_property
    def dim(self) -> int:
        """Width of the features."""
        if not self.names:
            raise DataError(f"{self.path} holds no image; pack it again")
        return int(self._rows(self.names[0], verify=False).features.shape[1])

    @property
    def row_shape(self) -> tuple[int]:
        """The shape of one region's features."""
        return (self.dim,)

    @cached_property
    def _noted(self) -> dict[str, int] | None:
        path = self._counts_path or self._absent_counts()
        return sealed_numbers(path, self.path) if path else None

    def _absent_counts(self) -> Path | None:
        """The count file that the store was packed with, where it is gone."""
        name = self.rule.count_file(self.path.name == self.rule.folder_name(self.codec, keep_all=True))
        path = None if name is None else (self.path if self.codec == "native" else self.folder) / name
        return path if path and is_sealed(self.path, path) else None

    @cached_property
    def _checksums(self) -> dict[str, int]:
        path = self.path / CHECKSUMS
        there = self.codec == "published" and (path.is_file() or is_sealed(self.path, path))
        return sealed_numbers(path) if there else {}

    def index_counts(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Regions that the index states for each name [n]; may exceed the rows stored (published stores)."""
        return np.fromiter((self._index_count(name) for name in names), np.int64, len(names))

    def _index_count(self, name: str) -> int:
        if self._noted is not None:
            count = self._noted.get(name)
            if count is None and name in self._store:
                raise DataError(f"{self._counts_path} has no count of {name}, which is in the store; copy both again")
            if count is None:
                raise missing(self.path, name, self.names)
            return count
        if self.rule.is_fixed:
            if name not in self._store:
                raise missing(self.path, name, self.names)
            return self.rule.num_bb
        return int(self.rule.count(self._conf(name)))

    def _conf(self, name: str) -> NDArray[Any]:
        """Confidences [rows stored] of an image."""
        buffer = self._store.get(name)
        try:
            if self.codec == "native":
                return view_native(buffer, verify=False).conf
            decode = formats.decode_npz if self.codec == "compressed" else formats.decode_published
            return decode(buffer, ("conf",))["conf"].reshape(-1)
        except KeyError as error:
            raise DataError(f"{self.path}: {name} has no conf and no noted count; pack it again") from error
        except DamagedRecord as error:
            raise self._damage(name, error) from error

    def counts(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Regions that reading returns for each name [n]: the index's number, or the rows stored if fewer.

        Raises:
            DataError: an image is not in the store.
        """
        return np.fromiter((self._count(name) for name in names), np.int64, len(names))

    def _count(self, name: str) -> int:
        count = self._counted.get(name)
        if count is None:
            count = self._index_count(name)
            if self.codec != "native" or self.rule.is_fixed:  # our count files say what is stored, others more
                count = min(count, len(self._rows(name, verify=False).features))
            if count < 1:
                raise DataError(f"{self.path}: {name} has no region; leave the image out or extract it again")
            self._counted[name] = count
        return count

    def _rows(self, name: str, verify: bool) -> Record | _Rows:
        record = self._store.get(name)
        try:
            if verify and self._checksums and self._checksums.get(name) != crc32c.crc32c(record):
                raise DamagedRecord("its checksum does not match its bytes")
            return self._view(record, verify and self.codec == "native")
        except DamagedRecord as error:
            raise self._damage(name, error) from error

    def _damage(self, name: str, error: DamagedRecord) -> DamagedRecord:
        return DamagedRecord(f"{self.path}: record {name} is damaged ({error}); copy or pack the store again")

    def _verified_rows(self, name: str) -> Record | _Rows:
        if self._verify != "always" and name in self._verified:
            return self._rows(name, verify=False)
        rows = self._rows(name, verify=self._verify != "never")
        if name not in self._verified:
            self._check_fit(name, rows)
            self._verified.add(name)
        return rows

    @cached_property
    def _width(self) -> int | None:
        with suppress(DataError):  # the first record is damaged, which is told when that is read
            return self.dim
        return None

    def _check_fit(self, name: str, rows: Record | _Rows, noted: int = 0) -> None:
        dtype = self.dtype if self.codec == "native" else None
        if reason := misfit(rows.features, rows.boxes, self._width, dtype, self.has_boxes, noted):
            raise DataError(f"{self.path}: {name} {reason}")

    def read_into(
        self,
        name: str,
        features: NDArray[Any],
        boxes: NDArray[np.float32],
        key: int | None = None,  # noqa: ARG002
    ) -> None:
        """Copy an image's first n regions straight from the store's map into the caller's arrays.

        Args:
            features: [n, d], float16 or float32, C order; n is at most `counts([name])`.
            boxes: [n, 7] float32; filled with zeros where the store has none.
            key: what random draws would depend on; nothing about regions is random.

        Raises:
            DataError: it does not fit the store; a DamagedRecord: its bytes are not what was written. Names both.
        """
        rows = self._verified_rows(name)
        count = len(features)
        if count > len(rows.features):
            raise DataError(f"{self.path}: {name} holds {len(rows.features)} regions, {count} were asked for")
        _copy(rows.features[:count], features)
        if rows.boxes is None:
            boxes[...] = 0
        elif self.codec == "native":
            boxes[...] = rows.boxes[:count]
        else:
            box_features(rows.boxes[:count], boxes)

    def read(self, name: str) -> Image:
        """An image's counted regions, copied."""
        count = self._count(name)
        stored = self._rows(name, verify=False).features
        image = Image(np.empty((count, stored.shape[1]), stored.dtype), np.empty((count, 7), np.float32))
        self.read_into(name, *image)
        return image

    def damaged(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Read every byte of the named records; (name, reason) of those that cannot be used."""
        found = []
        for name in names:
            try:
                rows = self._rows(name, verify=True)
                self._check_fit(name, rows, self._count(name))
            except DataError as error:
                found.append((name, str(error)))
                continue
            if not all(np.isfinite(part).all() for part in (rows.features, rows.boxes) if part is not None):
                found.append((name, "holds numbers that are not finite"))
        return found

    def close(self) -> None:
        """Let go of the store's environment."""
        self._store.close()


def _copy(source: NDArray[Any], target: NDArray[Any]) -> None:
    if source.dtype == np.float16 and target.dtype == np.float32:
        # numpy widens half floats one by one; torch has vector instructions for it. Imported here because
        # most programs that look at stores need no torch.
        import torch
        from torch.utils.dlpack import from_dlpack

        torch.from_numpy(target).copy_(from_dlpack(source))
    else:
        np.copyto(target, source)
