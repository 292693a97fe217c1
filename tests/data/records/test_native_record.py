"""Our own records survive their format, and no damage to them goes unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records.codec import DamagedRecord
from data.records.native_record import HEADER_BYTES, encode_native, view_native
from data.records.regions import box_features
from tests.arrays import extracted


def native(seed: int = 0, rows: int = 5, width: int = 7) -> bytes:
    image = extracted(seed, rows, width)
    return encode_native(image["features"], box_features(image["norm_bb"]), image["conf"])


def alone(rows: int, width: int) -> bytes:
    """Single floats without boxes."""
    image = extracted(0, rows, width, np.float32)
    return encode_native(image["features"], None, image["conf"], single=True)


@given(st.integers(0, 40), st.integers(1, 70))
def test_native_round_trip(rows: int, width: int) -> None:
    image = extracted(1, rows, width)
    boxes = box_features(image["norm_bb"])
    record = view_native(encode_native(image["features"], boxes, image["conf"]))
    assert np.array_equal(record.features, image["features"])
    assert np.array_equal(record.boxes, boxes)
    assert np.array_equal(record.conf, image["conf"])


def test_native_arrays_are_views_of_the_buffer() -> None:
    buffer = np.frombuffer(native(), np.uint8)
    record = view_native(memoryview(buffer))
    assert all(np.shares_memory(array, buffer) for array in record)
    assert not any(array.flags.writeable for array in record)


@given(st.integers(0, 40), st.integers(1, 70), st.booleans(), st.booleans())
def test_native_records_may_lack_boxes_and_hold_single_floats(
    rows: int, width: int, has_boxes: bool, single: bool
) -> None:
    image = extracted(1, rows, width, np.float32)
    boxes = box_features(image["norm_bb"]) if has_boxes else None
    record = view_native(encode_native(image["features"], boxes, image["conf"], single))
    assert record.features.dtype == (np.float32 if single else np.float16)
    assert np.array_equal(record.features, image["features"].astype(record.features.dtype))
    assert (record.boxes is None) == (boxes is None)
    assert boxes is None or np.array_equal(record.boxes, boxes)
    assert np.array_equal(record.conf, image["conf"].astype(np.float16))


def test_records_with_boxes_are_written_as_ever() -> None:
    """Stores of version 1 and readers of them know nothing of flags."""
    assert native()[8:12] == b"\1\0\0\0"


@pytest.mark.parametrize(("version", "flags"), [(1, 2), (2, 0), (2, 4), (2, 7), (3, 0)])
def test_unknown_versions_and_flags_are_refused_without_the_checksum(version: int, flags: int) -> None:
    record = bytearray(native())
    record[8:12] = bytes([version, 0, flags, 0])
    with pytest.raises(DamagedRecord, match=r"does not begin like a native record of version 1 or 2|its flags"):
        view_native(bytes(record), verify=False)


def test_features_start_on_a_cache_line_of_an_lmdb_page() -> None:
    assert (16 + HEADER_BYTES) % 64 == 0


@pytest.mark.parametrize("record", [native(rows=2, width=3), alone(rows=2, width=3)], ids=["boxes", "alone"])
def test_every_flipped_bit_of_a_native_record_is_found(record: bytes) -> None:
    for bit in range(8 * len(record)):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedRecord):
            view_native(bytes(damaged))


@pytest.mark.parametrize("record", [native(rows=2, width=3), alone(rows=2, width=3)], ids=["boxes", "alone"])
def test_every_shortening_of_a_native_record_is_found_without_its_checksum(record: bytes) -> None:
    for length in range(len(record)):
        with pytest.raises(DamagedRecord):
            view_native(record[:length], verify=False)


def test_native_refuses_arrays_that_disagree() -> None:
    image = extracted(0, 4, 3)
    with pytest.raises(ValueError, match="do not agree"):
        encode_native(image["features"], box_features(image["norm_bb"])[:3], image["conf"])
    with pytest.raises(ValueError, match="do not agree"):
        encode_native(image["features"], None, image["conf"][:3])
