"""Packing of image stores: arrays of an extractor to records, their counts and the store's description."""

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
from data.records import codec as formats
from data.records.native_record import encode_native
from data.records.regions import Codec, RegionRule, are_shares, box_features, box_range, cut_regions
from data.stores.lmdb_writer import LmdbWriter

KEYS, META = "__keys__", "meta.json"
CHECKSUMS = "checksums.json"
"""CRC32C of each record, where a store's layout has none of its own."""
VERSION = 1
DTYPES = ("float16", "float32")
REGIONS = ("features", "norm_bb", "conf")
"""Arrays of numbers, a row a region."""
TURNED = 1e-3
"""So far below 0 a box's width or height may be rounded."""
NOT_FINITE = "holds numbers that are not finite"


def encode_image(
    arrays: Mapping[str, NDArray[Any]], rule: RegionRule, codec: Codec, keep_all: bool = False, dtype: str = "float16"
) -> tuple[bytes, int]:
    """One extractor's arrays as a record, and the region count to note; pure, so any process may run it.

    Args:
        arrays: `features [n, d]`, `norm_bb [n, 6]`, `conf [n]` or `[n, 1]`; published layouts keep the rest.
        dtype: of a native record; float32 keeps every bit of features and boxes.

    Raises:
        DataError: an array is missing, they disagree on n, numbers are not finite, or no region is left.
    """
    _check(arrays, rule, keep_all)
    kept, count = cut_regions(arrays, rule, keep_all)
    rows = len(kept["features"])
    if rows == 0:
        raise DataError("holds no region")
    if dtype == "float32":
        kept |= {name: arrays[name][:rows].astype(np.float32) for name in ("features", "norm_bb")}
    for name in REGIONS:
        if name in kept and not np.isfinite(kept[name]).all():
            too_large = np.isfinite(arrays[name][:rows]).all()
            raise DataError(f"{NOT_FINITE}{' in half precision' if too_large else ''} ({name})")
    if codec == "native":
        conf = kept["conf"].reshape(-1) if "conf" in kept else np.ones(rows)
        boxes = box_features(kept["norm_bb"])
        return encode_native(kept["features"], boxes, conf, dtype == "float32"), min(count, rows)
    return (formats.encode_npz if codec == "compressed" else formats.encode_published)(kept), count


def encode_features(features: NDArray[Any], dtype: str = "float16") -> bytes:
    """Features [n, d] alone, without boxes, as a native record of float16 or float32.

    Raises:
        DataError: they are no rows of features, or numbers are not finite in that type.
    """
    if features.ndim != 2 or not features.size:
        raise DataError(f"features {list(features.shape)} are no rows of features")
    with np.errstate(over="ignore"):  # too large for half precision: infinite, which is refused below
        typed = features.astype(dtype)
    if not np.isfinite(typed).all():
        too_large = np.isfinite(features).all()
        raise DataError("holds numbers too large for float16; keep float32" if too_large else NOT_FINITE)
    return encode_native(typed, None, np.ones(len(typed)), single=dtype == "float32")


def _check(arrays: Mapping[str, NDArray[Any]], rule: RegionRule, keep_all: bool) -> None:
    needed = ["features", "norm_bb"] + ([] if keep_all or rule.is_fixed else ["conf"])
    missing = [name for name in needed if name not in arrays]
    if missing:
        remedy = "; give --conf_th -1 or --keep_all, which need none" if missing == ["conf"] else ""
        raise DataError(f"holds no {' and no '.join(missing)}, but {', '.join(arrays) or 'nothing'}{remedy}")
    odd = [f"{name} of {arrays[name].dtype}" for name in REGIONS if name in arrays and arrays[name].dtype.kind != "f"]
    if odd:
        raise DataError(f"holds {', '.join(odd)}, not of floating numbers; extract it again")
    features, boxes = arrays["features"], arrays["norm_bb"]
    conf = arrays.get("conf", np.ones(features.shape[:1]))
    if features.ndim != 2 or not features.shape[1] or boxes.shape != (len(features), 6) or conf.size != len(features):
        raise DataError(f"features {features.shape}, boxes {boxes.shape}, conf {conf.shape} do not agree")
    if keep_all and "nbb" in arrays:
        _check_number(arrays["nbb"])
    if np.isfinite(boxes).all() and not are_shares(boxes):
        raise DataError(f"has boxes {box_range(boxes)}, not shares of width and height from 0 to 1; --pixel_boxes of "
                        "build_imgdb.py converts pixels")  # fmt: skip
    if (boxes[:, 4:] < -TURNED).any():
        raise DataError("has boxes that end before they begin; give x1, y1, x2, y2, width and height as shares")


def _check_number(nbb: NDArray[Any]) -> None:
    is_number = nbb.size == 1 and nbb.dtype.kind in "iuf"
    if not (is_number and nbb.reshape(-1)[0] >= 1 and float(nbb.reshape(-1)[0]).is_integer()):
        raise DataError(f"has {nbb.tolist()!r} as its number of regions (nbb, num_bbox); give a whole number from 1")


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
