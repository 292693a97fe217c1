"""The native record of an image's regions: aligned for reading without conversion, and checksummed."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import crc32c
import numpy as np
from numpy.typing import NDArray

from data.records.codec import Buffer, DamagedRecord

MAGIC = b"XMR1"
# Records of version 1 have half floats and boxes; those of version 2 say in their flags what is otherwise.
VERSION, FLAGGED = 1, 2
IS_SINGLE, NO_BOXES = 1, 2
# magic, checksum of what follows it, version, flags, rows, width. The header is padded to 48 bytes because
# LMDB puts a large value 16 bytes into its page: the features then start on a 64-byte cache line of the map.
HEADER = struct.Struct("<4sIHHII")
HEADER_BYTES = 48
HALF, SINGLE = np.dtype("<f2"), np.dtype("<f4")
CHECKED_FROM = 8


class Record(NamedTuple):
    """One image of a native store, views of the record.

    Attributes:
        features: [n, d] float16, or float32.
        boxes: [n, 7] float32, the model's box input: norm_bb and the area, ready so that reading only copies; None
            in records of features alone.
        conf: [n] float16.
    """

    features: NDArray[Any]
    boxes: NDArray[np.float32] | None
    conf: NDArray[np.float16]


def encode_native(
    features: NDArray[Any], boxes: NDArray[np.float32] | None, conf: NDArray[Any], single: bool = False
) -> bytes:
    """Header, float16 features [n, d], float32 boxes [n, 7] if any, float16 conf [n]; CRC32C over all behind itself.

    Args:
        single: keep the features as float32.

    Raises:
        ValueError: the arrays do not agree on n, or boxes are not seven wide.
    """
    rows, width = features.shape
    if conf.shape != (rows,) or (boxes is not None and boxes.shape != (rows, 7)):
        shape = None if boxes is None else boxes.shape
        raise ValueError(f"features {features.shape}, boxes {shape}, conf {conf.shape} do not agree")
    flags = IS_SINGLE * single | NO_BOXES * (boxes is None)
    typed = ((features, SINGLE if single else HALF), (boxes, SINGLE), (conf, HALF))
    parts = [np.ascontiguousarray(part, dtype).tobytes() for part, dtype in typed if part is not None]
    version = FLAGGED if flags else VERSION
    header = HEADER.pack(MAGIC, 0, version, flags, rows, width).ljust(HEADER_BYTES, b"\0")
    checked = b"".join((header[CHECKED_FROM:], *parts))
    return b"".join((MAGIC, struct.pack("<I", crc32c.crc32c(checked)), checked))


def view_native(buffer: Buffer, verify: bool = True) -> Record:
    """The arrays of a native record as views; with `verify` its checksum is compared first.

    Raises:
        DamagedRecord: wrong beginning, wrong length, or wrong checksum.
    """
    if len(buffer) < HEADER_BYTES:
        raise DamagedRecord(f"{len(buffer)} bytes are too few for a native record")
    magic, checksum, version, flags, rows, width = HEADER.unpack_from(buffer)
    if magic != MAGIC or version not in (VERSION, FLAGGED):
        raise DamagedRecord(f"does not begin like a native record of version {VERSION} or {FLAGGED}")
    if flags & ~(IS_SINGLE | NO_BOXES) or (version == FLAGGED) != bool(flags):
        raise DamagedRecord(f"its flags {flags} do not belong to version {version}")
    kind, has_boxes = SINGLE if flags & IS_SINGLE else HALF, not flags & NO_BOXES
    boxes_at = HEADER_BYTES + kind.itemsize * rows * width
    conf_at = boxes_at + 28 * rows * has_boxes
    if len(buffer) != conf_at + 2 * rows:
        raise DamagedRecord(f"{len(buffer)} bytes do not hold {rows} regions of width {width}")
    if verify and crc32c.crc32c(memoryview(buffer)[CHECKED_FROM:]) != checksum:
        raise DamagedRecord("its checksum does not match its bytes")
    return Record(
        np.ndarray((rows, width), kind, buffer, HEADER_BYTES),
        np.ndarray((rows, 7), SINGLE, buffer, boxes_at) if has_boxes else None,
        np.ndarray((rows,), HALF, buffer, conf_at),
    )
