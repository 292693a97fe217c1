"""Pictures to regions: proposals, decoding of what people keep in folders, and folders and archives of it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.errors import DataError
from data.source.jpeg import RAW_DIM, Whitener, describe, iterate_pictures, propose_boxes, read_picture


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_colours(mode: str = "RGB") -> Image.Image:
    """Left half dark red, right half pale blue, 40 wide and 20 high."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = (120, 10, 10), (180, 200, 250)
    image = Image.fromarray(pixels)
    return image.quantize(8) if mode == "P" else image.convert(mode)


def test_proposals_lie_inside_and_start_with_the_whole_picture() -> None:
    boxes = propose_boxes(500, 333)
    assert boxes.shape == (36, 4)
    assert boxes[0].tolist() == [0, 0, 500, 333]
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 500).all()
    assert (boxes[:, 3] <= 333).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(np.unique(boxes, axis=0)) == 36


def test_fewer_proposals_are_the_first_ones() -> None:
    np.testing.assert_array_equal(propose_boxes(100, 80, 14), propose_boxes(100, 80)[:14])
    assert len(propose_boxes(1, 1, 100)) == 36


def test_from_bytes_to_whitened_regions() -> None:
    pixels = read_picture(encoded(two_colours(), "JPEG"))
    raw = describe(pixels, propose_boxes(pixels.shape[1], pixels.shape[0]))
    assert raw.shape == (36, RAW_DIM)
    assert Whitener.fit([raw], 8).transform(raw).shape == (36, 8)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP")],
)
def test_colour_modes(mode: str, kind: str) -> None:
    pixels = read_picture(encoded(two_colours(mode), kind))
    assert pixels.shape == (20, 40, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[10, 5], (120, 10, 10), atol=16)
    np.testing.assert_allclose(pixels[10, 35], (180, 200, 250), atol=16)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_modes(mode: str) -> None:
    values = np.zeros((20, 40), np.uint8)
    values[:, 20:] = 255
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    pixels = read_picture(encoded(image, "PNG"))
    assert pixels.shape == (20, 40, 3)
    assert pixels[10, 5].tolist() == [0, 0, 0]
    assert pixels[10, 35].tolist() == [255, 255, 255]


def test_transparent_parts_are_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read_picture(encoded(image, "PNG")).min() == 255


def test_turned_as_its_exif_mark_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    pixels = read_picture(encoded(two_colours(), "JPEG", exif=exif))
    assert pixels.shape == (40, 20, 3)
    np.testing.assert_allclose(pixels[5, 10], (120, 10, 10), atol=16)


def test_reduced_while_decoding_but_not_below_the_wish() -> None:
    data = encoded(two_colours().resize((800, 400)), "JPEG")
    height, width = read_picture(data, max_side=160).shape[:2]
    assert (width, height) == (200, 100)
    assert read_picture(data, max_side=5000).shape[:2] == (400, 800)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.95])
def test_cut_off_files_are_named(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(DataError, match=r"^holiday/7\.jpg .*leave it out"):
        read_picture(data[: int(len(data) * share)], "holiday/7.jpg")


def test_what_is_no_picture_is_named() -> None:
    with pytest.raises(DataError, match=r"^page\.jpg cannot be read as a picture"):
        read_picture(b"<html>not found</html>", "page.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "pictures"
    (top / "b").mkdir(parents=True)
    (top / ".cache").mkdir()
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "notes.txt", "._a.jpeg", ".cache/c.jpg"):
        (top / name).write_bytes(name.encode())
    return top


def test_folder_in_sorted_order_without_other_and_hidden_files(folder: Path) -> None:
    found = list(iterate_pictures(folder))
    assert [name for name, _ in found] == ["a.jpeg", "b/1.png", "b/2.JPG"]
    assert all(data == name.encode() for name, data in found)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archive_in_its_own_order(folder: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "pictures.tar"
    with tarfile.open(path, mode) as archive:
        for name in ("b/2.JPG", "notes.txt", "._a.jpeg", "a.jpeg"):
            archive.add(folder / name, f"./{name}")
    assert list(iterate_pictures(path)) == [("b/2.JPG", b"b/2.JPG"), ("a.jpeg", b"a.jpeg")]


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*empty"):
        list(iterate_pictures(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"no folder or tar archive at .*absent"):
        list(iterate_pictures(tmp_path / "absent"))
    (tmp_path / "torn.tar").write_bytes(b"not an archive" * 100)
    with pytest.raises(DataError, match=r"torn\.tar is no tar archive"):
        list(iterate_pictures(tmp_path / "torn.tar"))


def test_cut_off_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = 5000
        archive.addfile(member, io.BytesIO(bytes(5000)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.tar .*cut off"):
        list(iterate_pictures(path))
