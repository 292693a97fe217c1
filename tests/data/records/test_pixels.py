"""Pictures to squares of pixels: what viewers show, exact crops, fair draws, and bytes that are no picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from config.errors import DataError
from data.draws import generator
from data.records.pixels import Crop, crop_square, decode, draw_crop, resize_whole, shrink, to_8_bit
from tests.drawn import drawn, encoded


def square(image: Image.Image, side: int) -> np.ndarray:
    """Pillow's own answer, [3, side, side]."""
    return np.moveaxis(np.array(image.resize((side, side), Image.Resampling.BICUBIC)), -1, 0)


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")]
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    got = decode(encoded(drawn(0).quantize(256) if mode == "P" else drawn(0).convert(mode), kind))
    assert (got.mode, got.size) == ("RGB", (60, 40))
    expected = np.asarray(drawn(0).convert("L" if mode in ("L", "LA") else "RGB").convert("RGB"), int)
    assert np.abs(np.asarray(got, int) - expected).mean() < 8


def test_sixteen_bits_are_scaled_not_cut() -> None:
    levels = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    got = np.asarray(decode(encoded(Image.fromarray(levels), "PNG")))
    assert np.array_equal(got[..., 0], (levels / 65535 * 255).round().astype(np.uint8))


def test_transparency_is_white() -> None:
    image = drawn(0).convert("RGBA")
    image.putalpha(0)
    assert np.asarray(decode(encoded(image, "PNG"))).min() == 255


def test_turned_as_its_mark_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(encoded(drawn(0), exif=exif))
    assert turned.size == (40, 60)
    plain = np.asarray(decode(encoded(drawn(0))))
    assert np.array_equal(np.asarray(turned), np.rot90(plain, -1))


@pytest.mark.parametrize("progressive", [False, True])
def test_whatever_is_cut_off_is_refused(progressive: bool) -> None:
    data = encoded(drawn(0, 200, 150), quality=95, progressive=progressive)
    assert len(data) > 2500
    for missing in [*range(1, 300, 7), *range(300, len(data) - 1, 200)]:
        with pytest.raises(DataError, match=r"^cannot be read as a picture"):
            decode(data[:-missing])


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", r"^is empty \(0 bytes\); fetch it again"), (b"<html>", r"^cannot be read .*\(its format is not known\)")],
)
def test_what_is_no_picture_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        decode(data)


def test_reduced_while_decoding_where_asked() -> None:
    data = encoded(drawn(0, 800, 400))
    assert decode(data, max_side=160).size == (200, 100)
    assert decode(data).size == (800, 400)


# ---------------------------------------------------------------- squares


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (32, 32)])
def test_whole_pictures_are_squeezed_by_the_8_bit_filter(size: tuple[int, int]) -> None:
    pixels = resize_whole(drawn(1, *size), 32)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, square(drawn(1, *size), 32))


def test_crops_are_cut_before_they_are_resized() -> None:
    picture, crop = drawn(2), Crop(top=5, left=7, height=30, width=40, flip=False)
    pixels = np.asarray(picture)[5:35, 7:47]
    expected = square(Image.fromarray(pixels), 24)
    assert np.array_equal(crop_square(picture, crop, 24), expected)
    beyond = np.moveaxis(np.array(picture.resize((24, 24), Image.Resampling.BICUBIC, box=(7, 5, 47, 35))), -1, 0)
    assert not np.array_equal(expected, beyond)


def test_mirrored_after_resizing() -> None:
    picture, crop = drawn(2), Crop(3, 2, 31, 29, flip=False)
    plain = crop_square(picture, crop, 24)
    assert np.array_equal(crop_square(picture, crop._replace(flip=True), 24), plain[:, :, ::-1])


# ---------------------------------------------------------------- draws


def crops(width: int, height: int, smallest: float, count: int = 2000) -> np.ndarray:
    return np.array([draw_crop(width, height, generator(key, "crop"), smallest) for key in range(count)])


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (300, 300)])
def test_drawn_crops_lie_inside_and_vary_as_told(width: int, height: int) -> None:
    top, left, down, across, flip = crops(width, height, 0.6).T
    assert top.min() == left.min() == 0
    assert (top + down).max() == height
    assert (left + across).max() == width
    shares, aspects = down * across / (width * height), across / down
    assert 0.595 < shares.min() < 0.605
    assert shares.max() > 0.97
    assert 0.74 < aspects.min() < 0.78 or height < width
    assert 1.28 < aspects.max() < 1.35 or width < height
    assert 0.46 < flip.mean() < 0.54


def test_of_a_square_shares_and_aspects_are_even() -> None:
    """Small shares always fit, so that nothing is drawn twice."""
    _, _, down, across, _ = crops(1000, 1000, 0.1, 4000).T
    shares = down * across / 1e6
    small = shares < 0.5
    assert abs((shares < 0.3).sum() / small.sum() - 0.5) < 0.04
    logarithms = np.log(across[small] / down[small]) / np.log(4 / 3)
    assert np.abs(np.histogram(logarithms, 4, (-1, 1))[0] / small.sum() - 0.25).max() < 0.04


@pytest.mark.parametrize(
    ("size", "expected"), [((900, 30), (0, 430, 30, 40)), ((30, 900), (430, 0, 40, 30)), ((1, 1), (0, 0, 1, 1))]
)
def test_what_never_fits_is_cut_from_the_middle(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert draw_crop(*size, generator(0, "crop"), 0.6)[:4] == expected


def test_the_same_generator_draws_the_same() -> None:
    first, second, other = (draw_crop(500, 375, generator(key, "crop"), 0.6) for key in (5, 5, 6))
    assert first == second != other


# ---------------------------------------------------------------- reduced files


@pytest.mark.parametrize(("size", "expected"), [((60, 40), (30, 20)), ((40, 60), (20, 30)), ((500, 20), (500, 20))])
def test_reduced_to_the_shorter_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    got = decode(shrink(drawn(3, *size), 20, 95))
    assert got.size == expected
    wanted = np.asarray(drawn(3, *size).resize(expected, Image.Resampling.BICUBIC), int)
    assert np.abs(np.asarray(got, int) - wanted).mean() < 8


def test_quality_is_a_matter_of_bytes() -> None:
    assert len(shrink(drawn(3, 300, 200), 100, 30)) < len(shrink(drawn(3, 300, 200), 100, 95))


def float_tiff(low: float, high: float) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(low, high, 12, dtype=np.float32).reshape(3, 4)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 0), (0, 1e6)])
def test_floating_shades_of_unknown_range_are_refused(low: float, high: float) -> None:
    with pytest.raises(DataError, match=rf"^holds floating numbers from {low:g} to .*; give --float_range with"):
        decode(float_tiff(low, high))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-300, -45), (0, 25_500_000)])
def test_whole_numbers_that_are_no_shades_are_refused(low: int, high: int) -> None:
    values = np.linspace(low, high, 12).round().astype(np.int32).reshape(3, 4)
    with pytest.raises(DataError, match=rf"^holds whole numbers of 32 bits from {low} to .*, not .*; save it"):
        decode(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(("high", "white"), [(0, 0), (255, 255), (65535, 255)])
def test_whole_numbers_of_a_known_range_are_shades(high: int, white: int) -> None:
    values = np.array([[0, high]], np.int32)
    assert np.asarray(decode(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, white]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_told_so(wrong: float) -> None:
    data = encoded(Image.fromarray(np.array([[0.5, wrong]], np.float32)), "TIFF")
    for read in (decode, lambda data: to_8_bit(data, (0, 1))):
        with pytest.raises(DataError, match=r"^holds numbers that are not finite; mend it"):
            read(data)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (3, 700)])
def test_a_range_makes_shades_of_them(low: float, high: float) -> None:
    shades = np.asarray(decode(to_8_bit(float_tiff(low, high), (low, high))))
    assert shades[0, 0].tolist() == [0, 0, 0]
    assert shades[-1, -1].tolist() == [255, 255, 255]
    other = float_tiff(0, 255)
    assert np.asarray(decode(other))[-1, -1].tolist() == [255, 255, 255]
    plain = io.BytesIO()
    Image.new("RGB", (2, 2)).save(plain, "PNG")
    assert to_8_bit(plain.getvalue(), (low, high)) == plain.getvalue(), "others stay as they are"


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    data = encoded(Image.new("RGB", (30, 20)), "PNG")
    with pytest.raises(DataError, match=r"^has 30 x 20 pixels, more than 599; reduce it, or raise --max_pixels"):
        decode(data[:60], max_pixels=599)
    assert decode(data, max_pixels=600).size == (30, 20)
    with pytest.raises(DataError, match=r"^has 4 x 3 pixels, more than 11; reduce it"):
        to_8_bit(float_tiff(0, 1), (0, 1), max_pixels=11)
    assert Image.MAX_IMAGE_PIXELS is None, "no alarm of Pillow's"
