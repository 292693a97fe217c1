"""Published record formats and pictures: bytes to arrays and back.

Decoders return views of the buffer they are given wherever the format allows; only the caller copies.
No format here is ever unpickled. Published layouts are those of the UNITER stores.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import crc32c
import lz4.frame
import msgpack
import numpy as np
from numpy.typing import NDArray

from config.errors import DataError

Buffer = bytes | bytearray | memoryview
Arrays = dict[str, NDArray[Any]]


class DamagedRecord(DataError):
    """The bytes of a record are not what its writer stored: cut short, changed, or of another format."""


# ---------------------------------------------------------------- published, msgpack


def encode_published(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A msgpack map of arrays, byte for byte as msgpack-numpy writes it."""
    return bytes(msgpack.packb({name: _as_map(array) for name, array in arrays.items()}, use_bin_type=True))


def _as_map(array: NDArray[Any]) -> dict[bytes, Any]:
    data = np.ascontiguousarray(array).tobytes()
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": data}


# One array of a published record up to its first data byte: key, the map that msgpack-numpy writes, length.
# Reading it by pattern leaves the data where it is; msgpack itself would copy every array, needed or not.
_INTEGER = rb"(?:[\x00-\x7f]|\xcc.|\xcd..|\xce....)"
_ARRAY = re.compile(
    rb"(?:[\xa1-\xbf]|\xd9.)(?P<name>[a-z_0-9]+)"
    rb"\x85\xc4\x02nd\xc3\xc4\x04type\xa3(?P<type>...)\xc4\x04kind\xc4\x00"
    rb"\xc4\x05shape(?P<shape>[\x91-\x94]" + _INTEGER + rb"+)\xc4\x04data(?P<size>\xc4.|\xc5..|\xc6....)",
    re.DOTALL,
)


def decode_published(buffer: Buffer, only: Collection[str] | None = None) -> Arrays:
    """The arrays of a published record as read-only views; entries that are not arrays are left out.

    Args:
        only: names wanted; reading stops when all are found. None reads, and so checks, the whole record.

    Raises:
        DamagedRecord: not a msgpack map of arrays, or cut short.
    """
    arrays = _walk(buffer, only)
    return _unpack(buffer, only) if arrays is None else arrays


def _walk(buffer: Buffer, only: Collection[str] | None) -> Arrays | None:
    """The arrays by header pattern, None where a record is written in another (legal) way."""
    if len(buffer) == 0 or not 0x80 <= buffer[0] <= 0x8F:
        return None
    arrays: Arrays = {}
    position = 1
    for _ in range(buffer[0] & 0x0F):
        found = _ARRAY.match(buffer, position)
        if found is None:
            return None
        name, dtype, shape, size = _parse(found[0])
        start, position = found.end(), found.end() + size
        if position > len(buffer):
            raise DamagedRecord(f"cut short inside {name}")
        if only is None or name in only:
            arrays[name] = np.ndarray(shape, dtype, buffer, start)
            if only is not None and len(arrays) == len(only):
                return arrays
    if position != len(buffer):
        raise DamagedRecord(f"{len(buffer) - position} bytes behind the last array")
    return arrays


_PLAIN_TYPE = re.compile(r"[<>|=]?[?biufcSU]\d*")


@lru_cache(maxsize=4096)
def _parse(header: bytes) -> tuple[str, np.dtype[Any], tuple[int, ...], int]:
    """Name, type, shape and byte count of an array header; stores repeat a few shapes many thousand times."""
    found = _ARRAY.fullmatch(header)
    assert found is not None
    try:
        name, shape = found["name"].decode(), tuple(msgpack.unpackb(found["shape"]))
    except ValueError as error:
        raise DamagedRecord(f"has an array of no shape ({error})") from error
    size = int.from_bytes(found["size"][1:], "big")
    return name, _dtype(name, found["type"].decode("latin1"), shape, size), shape, size


def _dtype(name: str, kind: str, shape: Sequence[int], size: int) -> np.dtype[Any]:
    """The array's type, if it exists and `size` bytes of it make the shape."""
    try:
        dtype = np.dtype(kind) if _PLAIN_TYPE.fullmatch(kind) else None
    except TypeError:
        dtype = None
    if dtype is None:
        raise DamagedRecord(f"{name} is of unknown type {kind!r}")
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size:
        raise DamagedRecord(f"{size} bytes of {name} do not make {dtype} {list(shape)}")
    return dtype


def _unpack(buffer: Buffer, only: Collection[str] | None) -> Arrays:
    """The general reading, with copies: other key orders, entries without dimensions."""
    try:
        entries = msgpack.unpackb(buffer, raw=True, strict_map_key=False)
        if not isinstance(entries, dict):
            raise DamagedRecord("is not a map of arrays")
        named = {key.decode(): value for key, value in entries.items() if isinstance(value, dict)}
        return {
            name: _from_map(name, value)
            for name, value in named.items()
            if value.get(b"nd") is True and value[b"shape"] and (only is None or name in only)
        }
    except (msgpack.UnpackException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"is not a map of arrays ({error})") from error


def _from_map(name: str, value: dict[bytes, Any]) -> NDArray[Any]:
    data, shape = value[b"data"], value[b"shape"]
    return np.frombuffer(data, _dtype(name, value[b"type"].decode(), shape, len(data))).reshape(shape)


# ---------------------------------------------------------------- published, compressed


def encode_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An archive as `numpy.savez_compressed` writes it, whatever the arrays are called."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
            # ZipInfo bears a fixed date, so equal arrays make equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


NOT_AN_ARCHIVE = (  # what zipfile and numpy raise for damaged archives
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, KeyError, ValueError, RuntimeError,
)  # fmt: skip


def decode_npz(
    source: Buffer | io.BufferedIOBase, only: Collection[str] | None = None, keep_scalars: bool = False,
    objects: list[str] | None = None,
) -> Arrays:
    """The arrays of an npz archive, given as bytes or open file.

    Entries without dimensions are left out (old writers stored their own options so), unless `keep_scalars`. Entries of
    Python objects are damage, for they are never unpickled; with a list of `objects` they are left out and named there.

    Raises:
        DamagedRecord: not a zip archive of plain arrays, or a member's checksum is wrong.
    """
    stream = source if isinstance(source, io.BufferedIOBase) else io.BytesIO(source)
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                if only is None or name in only:
                    if objects is not None and _holds_objects(archive, member):
                        objects.append(name)
                        continue
                    with archive.open(member) as file:
                        array = np.lib.format.read_array(file, allow_pickle=False)
                        file.read()  # to the end, where zipfile compares the checksum
                    if array.ndim or keep_scalars:
                        arrays[name] = array
    except NOT_AN_ARCHIVE as error:
        raise DamagedRecord(f"is not an archive of plain arrays ({error})") from error
    return arrays


def _holds_objects(archive: zipfile.ZipFile, member: str) -> bool:
    """Whether the header of an array says that it holds Python objects."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as file:
        read_header = readers.get(np.lib.format.read_magic(file))
        return read_header is not None and bool(read_header(file)[2].hasobject)


# ---------------------------------------------------------------- published, text


def encode_text(record: Mapping[str, Any]) -> bytes:
    """A caption record as msgpack in an lz4 frame, with the frame's own (optional) checksum."""
    return bytes(lz4.frame.compress(msgpack.packb(dict(record), use_bin_type=True), content_checksum=True))


def decode_text(buffer: Buffer) -> dict[str, Any]:
    """The caption record with all its fields, known or not.

    Raises:
        DamagedRecord: not an lz4 frame of one msgpack map.
    """
    try:
        record = msgpack.unpackb(lz4.frame.decompress(buffer), raw=False, strict_map_key=False)
    except (RuntimeError, ValueError, EOFError, msgpack.UnpackException) as error:
        raise DamagedRecord(f"is not a compressed caption record ({error})") from error
    if not isinstance(record, dict):
        raise DamagedRecord("is not a caption record")
    return record


# ---------------------------------------------------------------- pictures


class StoredPicture(NamedTuple):
    """A picture's file as it was given, and the size [height, width] that it is shown in."""

    data: bytes
    height: int
    width: int


def encode_picture(picture: StoredPicture) -> bytes:
    """A msgpack map of the file's bytes, height and width, and the CRC32C of the bytes and of those two."""
    fields = {"jpeg": picture.data, "h": picture.height, "w": picture.width, "crc": crc32c.crc32c(picture.data)}
    return bytes(msgpack.packb(fields | {"crc_size": _crc_of_size(picture)}, use_bin_type=True))


def _crc_of_size(picture: StoredPicture) -> int:
    return crc32c.crc32c(f"{picture.height} x {picture.width}".encode())


def decode_picture(buffer: Buffer, verify: bool = True) -> tuple[StoredPicture, bool]:
    """The picture of a record, and whether the record bears a checksum; other packers' may not, and may hold more.

    Raises:
        DamagedRecord: no map with the three fields, or with `verify` a checksum that does not match.
    """
    try:
        fields = msgpack.unpackb(buffer, raw=False, strict_map_key=False)
        data, checksum = fields["jpeg"], fields.get("crc")
        picture = StoredPicture(data, int(fields["h"]), int(fields["w"]))
    except (msgpack.UnpackException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"is no map of a picture's bytes, height and width ({error})") from error
    if not isinstance(data, bytes):
        raise DamagedRecord(f"its picture is no bytes but {type(data).__name__}")
    if verify and checksum is not None and crc32c.crc32c(data) != checksum:
        raise DamagedRecord("its checksum does not match its bytes")
    if verify and fields.get("crc_size", _crc_of_size(picture)) != _crc_of_size(picture):
        raise DamagedRecord("its checksum does not match its height and width")
    return picture, checksum is not None
