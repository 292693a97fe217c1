"""What is noted of a store must be able to be true, and records must fit it; readers and checkers say so in words."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
import pytest

from config.errors import DataError
from data.records.native_record import encode_native
from data.stores.image_notes import misfit, noted_boxes, noted_dtype
from data.stores.image_store import ImageStore
from tests.arrays import write_image_store

HALF, SINGLE = np.dtype("float16"), np.dtype("float32")


def test_what_is_not_noted_has_a_default(tmp_path: Path) -> None:
    assert noted_boxes(tmp_path, {})
    assert not noted_boxes(tmp_path, {"has_boxes": False})
    assert noted_dtype(tmp_path, {}) == HALF
    assert noted_dtype(tmp_path, {"dtype": "float32"}) == SINGLE
    with pytest.raises(DataError, match=r"meta\.json: has_boxes 'no' is neither true nor false"):
        noted_boxes(tmp_path, {"has_boxes": "no"})
    with pytest.raises(DataError, match=r"meta\.json: dtype 3 is none of float16, float32"):
        noted_dtype(tmp_path, {"dtype": 3})


def test_a_record_that_fits_has_no_fault() -> None:
    boxes = np.zeros((2, 7), np.float32)
    assert misfit(np.zeros((2, 8), HALF), boxes, 8, HALF, True) == ""
    assert misfit(np.zeros((2, 8), HALF), boxes, 8, SINGLE, True) == "", "nothing is lost"
    assert misfit(np.zeros((2, 8), SINGLE), None, None, None, False) == ""


OTHERS = {
    "has features 9 wide, the store's first image 8": (np.zeros((12, 9)), np.zeros((12, 7)), False),
    "has features of float32, which float16 of meta.json cannot hold": (np.zeros((12, 8)), np.zeros((12, 7)), True),
    "has no boxes, but meta.json does not say that there are none": (np.zeros((12, 8)), None, False),
    "has boxes from 0 to 300, not shares of width and height": (np.zeros((12, 8)), np.full((12, 7), 300), False),
}


@pytest.mark.parametrize("told", OTHERS)
def test_a_record_of_another_store_is_refused_and_found(told: str, tmp_path: Path) -> None:
    features, boxes, single = OTHERS[told]
    names = write_image_store(tmp_path)
    record = encode_native(features, None if boxes is None else boxes.astype(np.float32), np.ones(12), single)
    path = put(tmp_path, names[2], record)
    store = ImageStore(tmp_path)
    with pytest.raises(DataError, match=rf"{path.name}: {names[2]} {told}"):
        store.read(names[2])
    assert [name for name, _ in store.damaged(names)] == [names[2]]


def test_a_count_that_no_array_can_hold_is_told(tmp_path: Path) -> None:
    names = write_image_store(tmp_path)
    path = tmp_path / "native_th0.2_max100_min10"
    (path / "nbb_th0.2_max100_min10.json").write_text(f'{{"{names[0]}": {10**30}}}')
    (path / "seal.json").unlink()
    with pytest.raises(DataError, match=r"min10\.json has a whole number for each name, but 1 have none"):
        ImageStore(tmp_path).counts(names[:1])


@pytest.mark.parametrize("rows", [0, 2])
def test_fewer_regions_than_noted_are_found(rows: int, tmp_path: Path) -> None:
    names = write_image_store(tmp_path)
    put(tmp_path, names[2], encode_native(np.zeros((rows, 8)), np.zeros((rows, 7), np.float32), np.ones(rows)))
    ((name, reason),) = ImageStore(tmp_path).damaged(names)
    assert name == names[2]
    assert f"holds {rows} regions, but 1" in reason


def put(folder: Path, name: str, record: bytes) -> Path:
    """Exchange a record of the one store below a folder."""
    path = next(found.parent for found in folder.glob("*/data.mdb"))
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as writer:
        writer.put(name.encode(), record)
    (path / "seal.json").unlink()
    return path
