"""Records survive their formats, are read as published readers wrote them, and damage never goes unnoticed."""

from __future__ import annotations

import io
import itertools
import zlib
from typing import Any

import crc32c
import lz4.frame
import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data.records.codec import (
    DamagedRecord,
    StoredPicture,
    decode_npz,
    decode_picture,
    decode_published,
    decode_text,
    encode_npz,
    encode_picture,
    encode_published,
    encode_text,
)
from tests.arrays import extracted

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=40)
dtypes = st.sampled_from(["<f2", "<f4", "<i8", "|u1"])
shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=300).filter(lambda s: np.prod(s) < 4000)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes))
records = st.dictionaries(names, arrays, max_size=5)


def same(got: dict[str, Any], expected: dict[str, Any]) -> bool:
    return got.keys() == expected.keys() and all(
        got[name].dtype == array.dtype and got[name].shape == array.shape and got[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )


# ---------------------------------------------------------------- published, msgpack


@given(records)
@settings(max_examples=60)
def test_published_bytes_are_those_of_msgpack_numpy(record: dict[str, Any]) -> None:
    assert encode_published(record) == msgpack.packb(record, default=msgpack_numpy.encode, use_bin_type=True)


@given(records)
@settings(max_examples=60)
def test_published_round_trip(record: dict[str, Any]) -> None:
    assert same(decode_published(encode_published(record)), record)


@given(records)
def test_published_is_read_by_msgpack_numpy(record: dict[str, Any]) -> None:
    theirs = msgpack.unpackb(encode_published(record), object_hook=msgpack_numpy.decode)
    assert same(theirs, record)


def test_published_arrays_are_views_of_the_buffer() -> None:
    buffer = np.frombuffer(encode_published(extracted(0)), np.uint8)
    assert all(np.shares_memory(array, buffer) for array in decode_published(memoryview(buffer)).values())


def test_published_reads_only_what_is_wanted() -> None:
    image = extracted(0)
    got = decode_published(encode_published(image), ("features",))
    assert same(got, {"features": image["features"]})


def test_published_ignores_entries_that_are_no_arrays() -> None:
    image = extracted(0)
    strange = {"allow_pickle": np.bool_(False), "scalar": np.float32(1), "text": "no array", **image, "note": 3}
    record = msgpack.packb(strange, default=msgpack_numpy.encode, use_bin_type=True)
    assert same(decode_published(record), image)


def test_published_reads_maps_in_another_order() -> None:
    features = extracted(0)["features"]
    written = {b"data": features.tobytes(), b"shape": list(features.shape), b"type": "<f2", b"nd": True}
    assert same(decode_published(msgpack.packb({"features": written})), {"features": features})


@given(st.data())
@settings(max_examples=60)
def test_damaged_published_records_raise_nothing_else(data: st.DataObject) -> None:
    record = bytearray(encode_published(extracted(0, rows=2, width=3)))
    cut = data.draw(st.integers(0, len(record)))
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] ^= data.draw(st.integers(0, 255))
    try:
        arrays = decode_published(bytes(record[:cut]))
    except DamagedRecord:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


def test_published_cut_short_is_found() -> None:
    record = encode_published(extracted(0, rows=2, width=3))
    for length in range(len(record)):
        with pytest.raises(DamagedRecord):
            decode_published(record[:length])


def test_published_refuses_python_objects() -> None:
    entry = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n."}
    with pytest.raises(DamagedRecord):
        decode_published(msgpack.packb({"features": entry}))


# ---------------------------------------------------------------- published, compressed


@given(records)
def test_npz_round_trip_both_ways(record: dict[str, Any]) -> None:
    ours = encode_npz(record)
    with np.load(io.BytesIO(ours), allow_pickle=False) as theirs:
        assert same({name: theirs[name] for name in theirs.files}, record)
    written = io.BytesIO()
    np.savez_compressed(written, allow_pickle=True, **record)
    assert same(decode_npz(written.getvalue()), record)


def test_npz_leaves_out_scalars_unless_asked() -> None:
    image = extracted(0)
    record = encode_npz({**image, "allow_pickle": np.array(False), "nbb": np.array(7)})
    assert same(decode_npz(record), image)
    assert int(decode_npz(record, keep_scalars=True)["nbb"]) == 7


def test_npz_refuses_pickled_objects() -> None:
    written = io.BytesIO()
    np.savez_compressed(written, allow_pickle=True, features=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DamagedRecord):
        decode_npz(written.getvalue())


def test_flipped_bits_of_compressed_arrays_are_found_or_change_nothing() -> None:
    """Zip checks the contents of its members; dates and permissions of its directory may change unnoticed."""
    image = extracted(0, rows=3, width=4)
    record = encode_npz(image)
    for at in range(len(record)):
        damaged = bytearray(record)
        damaged[at] ^= 0x10
        try:
            got = decode_npz(bytes(damaged), tuple(image))
        except DamagedRecord:
            continue
        assert all(np.array_equal(array, image[name]) for name, array in got.items())


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"no archive at all", zlib.compress(b"x" * 100)])
def test_npz_refuses_other_bytes(content: bytes) -> None:
    with pytest.raises(DamagedRecord):
        decode_npz(content)


# ---------------------------------------------------------------- text

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain))
def test_text_round_trip_keeps_unknown_fields(record: dict[str, Any]) -> None:
    assert decode_text(encode_text(record)) == record


def test_text_is_read_and_written_by_published_tools() -> None:
    record = {"input_ids": [1, 2], "img_fname": "café.npz"}
    assert msgpack.unpackb(lz4.frame.decompress(encode_text(record)), raw=False) == record
    assert decode_text(lz4.frame.compress(msgpack.packb(record, use_bin_type=True))) == record


def test_every_flipped_byte_of_a_text_is_found() -> None:
    record = encode_text({"input_ids": list(range(40)), "img_fname": "a.npz", "raw": "A dog runs ."})
    for at in range(len(record)):
        damaged = bytearray(record)
        damaged[at] ^= 0x04
        with pytest.raises(DamagedRecord):
            decode_text(bytes(damaged))


@pytest.mark.parametrize("content", [b"", b"garbage", lz4.frame.compress(b"\xc1"), lz4.frame.compress(b"\x93\1\2\3")])
def test_text_refuses_other_bytes(content: bytes) -> None:
    with pytest.raises(DamagedRecord):
        decode_text(content)


# ---------------------------------------------------------------- pictures

PICTURE = StoredPicture(bytes(range(200)), 30, 400)


def test_pictures_are_plain_maps() -> None:
    record = encode_picture(PICTURE)
    fields = msgpack.unpackb(record)
    assert fields.pop("crc_size") == crc32c.crc32c(b"30 x 400")
    assert fields == {"jpeg": PICTURE.data, "h": 30, "w": 400, "crc": crc32c.crc32c(PICTURE.data)}
    assert decode_picture(memoryview(record)) == (PICTURE, True)


def test_other_packers_pictures_may_hold_more_and_no_checksum() -> None:
    record = {"w": 400, "features": [[1.5]], "h": 30, "jpeg": PICTURE.data, 5: None}
    assert decode_picture(msgpack.packb(record)) == (PICTURE, False)


def test_a_picture_with_a_flipped_byte_is_found() -> None:
    record = encode_picture(PICTURE)
    for at, bit in itertools.product(range(len(record)), range(8)):
        damaged = bytearray(record)
        damaged[at] ^= 1 << bit
        try:
            picture, _ = decode_picture(bytes(damaged))
        except DamagedRecord:
            continue
        assert picture == PICTURE


def test_without_verifying_a_picture_s_checksum_is_not_compared() -> None:
    record = msgpack.packb({"jpeg": b"x", "h": 1, "w": 1, "crc": 5})
    assert decode_picture(record, verify=False) == (StoredPicture(b"x", 1, 1), True)
    with pytest.raises(DamagedRecord, match="its checksum does not match its bytes"):
        decode_picture(record)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no map of a picture's bytes"),
        (b"\xc1", "is no map"),
        (msgpack.packb([1, 2]), "is no map"),
        (msgpack.packb({"jpeg": b"x", "h": 1}), "is no map .*'w'"),
        (msgpack.packb({"jpeg": b"x", "h": 1, "w": None}), "is no map"),
        (msgpack.packb({"jpeg": 1 << 60, "h": 1, "w": 1}), "its picture is no bytes but int"),
    ],
)
def test_pictures_refuse_other_bytes(content: bytes, said: str) -> None:
    with pytest.raises(DamagedRecord, match=said):
        decode_picture(content)
