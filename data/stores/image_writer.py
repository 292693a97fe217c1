"""The writer of image stores: records, their region counts, and the description of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError, DataError
from data.files import read_json, write_json
from data.records.image_record import encode_features, encode_image
from data.records.regions import Codec, RegionRule
from data.stores.lmdb_writer import LmdbWriter

KEYS, META = "__keys__", "meta.json"
CHECKSUMS = "checksums.json"
"""CRC32C of each record, where a store's layout has none of its own."""
VERSION = 1


class ImageWriter:
    """Packs one variant of an image store below `folder` (`img_db/<split>/`); complete or absent, never half.

    After a kill the same call takes up what is there: `done()` tells which images need not be made again.

    Args:
        codec: native, or one of the published layouts.
        rule: region counts; names the variant's folder.
        keep_all: store all rows (cut to an image's own `nbb`, if given).
        meta: noted in the store's meta.json besides kind, dim, count, codec, version, rule, dtype and has_boxes.
        features_only: the type of features without boxes, float16 or float32; None stores features with boxes.
        dtype: the type of features with boxes.

    Raises:
        ConfigError: the layout has no records of features alone.
        DataError: the variant exists already, was begun with other options, or another process is packing it.
    """

    def __init__(
        self,
        folder: str | Path,
        codec: Codec = "native",
        rule: RegionRule | None = None,
        keep_all: bool = False,
        meta: Mapping[str, Any] | None = None,
        features_only: str | None = None,
        dtype: str = "float16",
    ) -> None:
        if features_only and codec != "native":
            raise ConfigError(f"the {codec} layout holds features with boxes; use the native one")
        if dtype != "float16" and codec != "native":
            raise ConfigError(f"the {codec} layout holds float16; use the native one for {dtype}")
        self.folder, self.codec, self.keep_all = Path(folder), codec, keep_all
        self._features_only = features_only
        self.rule = rule or RegionRule()
        self._writer = LmdbWriter(self.folder / self.rule.folder_name(codec, keep_all))
        self._meta = {
            "kind": "images", "codec": codec, "version": VERSION, "rule": asdict(self.rule), "keep_all": keep_all,
            "dtype": features_only or dtype, "has_boxes": features_only is None, **(meta or {}),
        }  # fmt: skip
        note_options(self._writer, self._meta)
        self._journal = self._writer.partial / "counts.jsonl"
        stored, noted = set(self._writer.keys()), _read_journal(self._journal)
        self._counts = {name: count for name, (count, _, _) in noted.items() if name in stored}
        self._checksums = {name: checksum for name, (_, _, checksum) in noted.items() if name in stored}
        self._dim = next((dim for name, (_, dim, _) in noted.items() if name in stored), None)
        try:
            self._log = self._journal.open("a", encoding="utf-8")
        except OSError as error:
            self._writer.release()
            raise self._writer.failure(error) from error

    @property
    def path(self) -> Path:
        """The store's folder once it is complete."""
        return self._writer.path

    @property
    def partial(self) -> Path:
        """The folder that becomes the store; files that belong to the store may be put into it."""
        return self._writer.partial

    @property
    def checksums(self) -> dict[str, int]:
        """The CRC32C of each record that is stored."""
        return dict(self._checksums)

    def done(self) -> set[str]:
        """Names of the images that are stored already."""
        return set(self._counts)

    def add(
        self,
        name: str,
        features: NDArray[Any],
        norm_bb: NDArray[Any],
        conf: NDArray[Any],
        soft_labels: NDArray[Any] | None = None,
        nbb: int | None = None,
    ) -> None:
        """Encode and store one image: features [n, d], norm_bb [n, 6], conf [n] or [n, 1].

        Raises:
            DataError: the arrays do not fit together; names the image.
        """
        assert self._features_only is None, "this store has no boxes"
        arrays = {"norm_bb": norm_bb, "features": features, "conf": conf}
        if soft_labels is not None:
            arrays["soft_labels"] = soft_labels
        if nbb is not None:
            arrays["nbb"] = np.array(nbb)
        try:
            record, count = encode_image(arrays, self.rule, self.codec, self.keep_all)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        self.put(name, record, count, features.shape[1])

    def add_features(self, name: str, features: NDArray[Any]) -> None:
        """Encode and store the features [n, d] of one image in a store without boxes; all n regions count.

        Raises:
            DataError: they cannot be stored; names the image.
        """
        try:
            assert self._features_only is not None, "this store has boxes"
            record = encode_features(features, self._features_only)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        self.put(name, record, *features.shape)

    def put(self, name: str, record: bytes, count: int, dim: int) -> None:
        """Store a record that `encode_image` made; all images of a store have one feature width.

        Raises:
            DataError: the width is not that of the images before, or no image can have this name.
        """
        if name == KEYS:
            raise DataError(f"{name} is what a store calls the list of its images; rename the image")
        if self._dim is not None and dim != self._dim:
            raise DataError(f"{name}: features are {dim} wide, {self._dim} before; a store has one width")
        self._dim = dim
        # The count is on its way to disk before the record is, so no stored record is ever without its count.
        checksum = crc32c.crc32c(record)
        try:
            self._log.write(json.dumps([name, count, dim, checksum]) + "\n")
            self._log.flush()
        except OSError as error:
            raise self._writer.failure(error) from error
        self._writer.put(name, record)
        self._counts[name], self._checksums[name] = count, checksum

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what it could not take was told when it was written
            self._log.close()
        if kind is not None:
            self._writer.release()
            return
        with self._writer.finishing() as beside:
            beside += self._describe()
        (self.path / self._journal.name).unlink()

    def _describe(self) -> list[Path]:
        """Write what is known of all images; returns the files that lie beside the store."""
        counts = dict(sorted(self._counts.items()))
        self._writer.put(KEYS, json.dumps(list(counts)).encode())
        write_json(self.partial / META, {"dim": self._dim, "count": len(counts), **self._meta})
        if self.codec == "published":
            write_json(self.partial / CHECKSUMS, {name: self._checksums[name] for name in counts})
        name = self.rule.count_file(self.keep_all)
        if name is None:
            return []
        path = (self.partial if self.codec == "native" else self.folder) / name
        write_json(path, counts)
        return [] if self.codec == "native" else [path]


def note_options(writer: LmdbWriter, meta: Mapping[str, Any]) -> None:
    """Note what is being packed, so that a run with other options does not go on with this one's work.

    Raises:
        DataError: the folder was begun with other options; the writer is released.
        Failure: there is no room; likewise.
    """
    path = writer.partial / META
    try:
        if not path.exists():
            write_json(path, meta)
    except OSError as error:
        writer.release()
        raise writer.failure(error) from error
    begun = read_json(path)
    names = (begun.keys() | meta) - {"dim", "count"}
    differing = sorted(name for name in names if begun.get(name) != meta.get(name))
    if differing and not writer.keys():  # nothing is packed: what others found wrong with it may have been mended
        _begin_anew(writer, meta)
    elif differing:
        writer.release()
        raise DataError(f"{path.parent} was begun with another {differing[0]}; remove it or use the same")


def _begin_anew(writer: LmdbWriter, meta: Mapping[str, Any]) -> None:
    """Note other options in a folder in which nothing is packed, and remove what was made with those before."""
    try:
        for path in writer.partial.iterdir():
            if path.suffix != ".mdb":
                path.unlink()
        write_json(writer.partial / META, meta)
    except OSError as error:
        writer.release()
        raise writer.failure(error) from error


def _read_journal(path: Path) -> dict[str, tuple[int, int, int]]:
    """Counts, widths and checksums noted so far; a line torn by a kill is the last one, and of no stored record."""
    noted: dict[str, tuple[int, int, int]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                name, count, dim, checksum = json.loads(line)
            except ValueError:
                continue
            noted[name] = count, dim, checksum
    return noted
