"""Extractor folders are listed in order, and bad files are named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import DataError
from data.records.image_record import encode_image
from data.records.regions import RegionRule
from data.source.butd_npz import list_npz, read_npz
from data.source.detector_output import BoxRule, read_sizes, size_of
from tests.arrays import extracted, write_npz_folder


def test_lists_files_in_order_of_name(tmp_path: Path) -> None:
    names = write_npz_folder(tmp_path / "raw")
    (tmp_path / "raw" / "notes.txt").touch()
    assert [path.name for path in list_npz(tmp_path / "raw")] == names


def test_folders_without_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        list_npz(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no \.npz file"):
        list_npz(tmp_path)


def test_reads_arrays_and_scalars(tmp_path: Path) -> None:
    image = extracted(0)
    np.savez_compressed(tmp_path / "a.npz", allow_pickle=False, **image, nbb=np.array(3))
    got = read_npz(tmp_path / "a.npz")
    assert got.keys() == {*image, "nbb"}
    assert all(np.array_equal(got[name], array) for name, array in image.items())
    assert int(got["nbb"]) == 3


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not an archive of plain arrays"):
        read_npz(tmp_path / "a.npz")


RNG = np.random.default_rng(0)
INFO = np.array({"objects_conf": [0.5]}, dtype=object)
PIXELS = np.array([[0, 0, 320, 240], [64, 48, 639, 479]], np.float32)
SHARES = np.array([[0, 0, 0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.9984375, 0.9979167, 0.8984375, 0.8979167]], np.float32)
FEATURES = RNG.random((2, 8), np.float32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "x, bbox, info": {"x": FEATURES, "bbox": PIXELS, "num_bbox": 2, "image_w": 640, "image_h": 480, "info": INFO},
    "x turned": {"x": FEATURES.T, "bbox": PIXELS, "num_bbox": 2, "image_w": 640, "image_h": 480, "info": INFO},
    "features, boxes": {"features": FEATURES, "boxes": PIXELS, "num_boxes": 2, "image_w": [640], "image_h": [480]},
    "shares": {"features": FEATURES, "boxes": SHARES[:, :4]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_read_and_objects_left_alone(layout: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **LAYOUTS[layout])
    got = read_npz(tmp_path / "a.npz")
    assert got.keys() == {"features", "norm_bb", *(["nbb"] if layout != "shares" else [])}
    assert np.array_equal(got["features"], FEATURES)
    np.testing.assert_allclose(got["norm_bb"], SHARES, rtol=1e-6)


def test_an_object_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "mark",)

    np.savez(tmp_path / "a.npz", allow_pickle=True, info=np.array(Trap(), dtype=object), **extracted(0))
    assert read_npz(tmp_path / "a.npz").keys() == extracted(0).keys()
    assert not (tmp_path / "mark").exists()


def test_boxes_in_pixels_need_the_size_of_their_picture(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, x=FEATURES, bbox=PIXELS, info=INFO)
    told = (r"boxes in pixels \(from 0 to 639\), and nothing says how large its picture is \('info' holds Python "
            r"objects, which are not read\); give --image_sizes FILE")
    with pytest.raises(DataError, match=told):
        read_npz(tmp_path / "a.npz")
    (tmp_path / "sizes.json").write_text('{"a": [640, 480]}')
    rule = BoxRule(size=size_of("a.npz", read_sizes(tmp_path / "sizes.json")))
    np.testing.assert_allclose(read_npz(tmp_path / "a.npz", rule)["norm_bb"], SHARES, rtol=1e-6)


def test_boxes_under_our_name_may_be_said_to_be_in_pixels(tmp_path: Path) -> None:
    six = np.concatenate([PIXELS, PIXELS[:, 2:] - PIXELS[:, :2]], 1)
    np.savez(tmp_path / "a.npz", features=FEATURES, norm_bb=six, image_w=640, image_h=480)
    np.testing.assert_allclose(read_npz(tmp_path / "a.npz", BoxRule(pixels=True))["norm_bb"], SHARES, rtol=1e-6)
    with pytest.raises(DataError, match=r"has boxes from 0 to 639, not shares .* from 0 to 1; --pixel_boxes"):
        encode_image(read_npz(tmp_path / "a.npz"), RegionRule(), "native", keep_all=True)


@pytest.mark.parametrize("content", ["[]", '{"a": [1]}', '{"a": [1, "x"]}', '{"a": [0, 4]}', '{"a": null}'])
def test_sizes_that_are_none_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text(content)
    with pytest.raises(DataError, match="no map from image names to"):
        read_sizes(tmp_path / "sizes.json")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(tmp_path / "a.npz")


def test_file_names_that_are_no_text_are_told_together(tmp_path: Path) -> None:
    write_npz_folder(tmp_path / "raw", 1)
    for name in (b"\xff.npz", b"\xfe.npz"):
        (tmp_path / "raw" / os.fsdecode(name)).touch()
    with pytest.raises(DataError, match=r"raw holds '\\udcfe\.npz', and 1 more: no names of images, .* rename"):
        list_npz(tmp_path / "raw")
