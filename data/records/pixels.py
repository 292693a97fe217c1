"""Pictures to squares of pixels: decoded upright, cropped, resized and mirrored by Pillow's 8-bit filters.

Pixels are 8 bits between the steps, as published models were trained on them; scaling them to numbers around zero is
the model's affair.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from config.errors import DataError

TRIES = 10
LARGEST_ASPECT = 4 / 3  # width to height, or height to width
MOST_PIXELS = 200_000_000
"""Of a picture that is packed or shown, where nothing else is said; in RGB they take 600 MB."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises for bytes that are no picture, or only the beginning of one."""
NOT_FINITE = "holds numbers that are not finite; mend it or leave it out"
KINDS_OF_NUMBERS = {
    "F": ("floating numbers", "give --float_range with its black and white, such as 0 1"),
    "I": ("whole numbers of 32 bits", "save it with 8 or 16 bits"),
}
"""By Pillow's mode: what they are called, and what helps where their range is unknown."""
Image.MAX_IMAGE_PIXELS = None  # `decode` has a limit of its own, which it tells; Pillow's speaks of an attack


class Crop(NamedTuple):
    """A part of a picture in whole pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def decode(data: bytes, max_side: int | None = None, max_pixels: int | None = None) -> Image.Image:
    """A picture in RGB as a viewer would show it: turned by its EXIF mark, transparency on white.

    Args:
        data: the bytes of its file.
        max_side: if given, a JPEG may be decoded at a half, quarter or eighth of its size, as long as its longer side
            keeps this many pixels; several times faster for photographs.
        max_pixels: of a picture as its file says, before anything of it is decoded; None takes any.

    Raises:
        DataError: the bytes are empty, cut off, no picture, too large, or hold numbers of unknown range; says which,
            not whose they are.
    """
    if not data:
        raise DataError("is empty (0 bytes); fetch it again or leave it out")
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image, max_pixels)
            if max_side is not None:
                longer = max(image.size)
                image.draft(None, (image.width * max_side // longer, image.height * max_side // longer))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _as_rgb(image)
    except DataError:
        raise
    except UNREADABLE as error:
        raise _unreadable(error) from error


def _check_size(image: Image.Image, max_pixels: int | None) -> None:
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise DataError(f"has {image.width} x {image.height} pixels, more than {max_pixels}; reduce it, or raise "
                        "--max_pixels")  # fmt: skip


def _unreadable(error: Exception) -> DataError:
    """The error for bytes that are no picture; Pillow's own words name the place of an object in memory."""
    why = "its format is not known" if isinstance(error, UnidentifiedImageError) else error
    return DataError(f"cannot be read as a picture ({why}); fetch it again or leave it out")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more: convert() would clip, not scale
        values = np.asarray(image, np.float64)
        if image.mode in ("F", "I"):
            _check_range(values, image.mode)
        values = values / (65535 if values.max(initial=0) > 255 else 255)
        return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_range(values: NDArray[np.float64], mode: str) -> None:
    """Raise DataError for floating or long whole numbers that are no shades from 0 to 255 or 65535.

    Nothing in the file tells what is black and white in them. Whole numbers that are all 0 are black.
    """
    lowest, highest = (float(values.min()), float(values.max())) if values.size else (0.0, 255.0)
    if not np.isfinite([lowest, highest]).all():
        raise DataError(NOT_FINITE)
    if lowest >= 0 and (1 < highest <= 65535 or (mode == "I" and highest == 0)):
        return
    what, remedy = KINDS_OF_NUMBERS[mode]
    raise DataError(f"holds {what} from {lowest:g} to {highest:g}, not shades from 0 to 255 or 65535; {remedy}")


def to_8_bit(data: bytes, float_range: Sequence[float], max_pixels: int | None = None) -> bytes:
    """The file of a picture; of one of floating numbers as a PNG, whose 0 and 255 are the ends of `float_range`.

    Raises:
        DataError: it is no picture, or one of floating numbers with more than `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode != "F":
                return data
            _check_size(image, max_pixels)
            black, white = float_range
            values = (np.asarray(image, np.float64) - black) / (white - black)
    except DataError:
        raise
    except UNREADABLE as error:
        raise _unreadable(error) from error
    if not np.isfinite(values).all():
        raise DataError(NOT_FINITE)
    shades = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
    buffer = io.BytesIO()
    shades.save(buffer, "PNG")
    return buffer.getvalue()


def resize_whole(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """The whole picture as a square [3, side, side], its proportions given up."""
    # A view of Pillow's [side, side, 3]: the one who stores it copies, once.
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def crop_square(picture: Image.Image, crop: Crop, side: int) -> NDArray[np.uint8]:
    """A part of the picture as a square [3, side, side], mirrored if the crop says so."""
    # Cut first: resize(box=...) would let the filter look beyond the edge of the part.
    part = picture.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    pixels = resize_whole(part, side)
    return pixels[:, :, ::-1] if crop.flip else pixels


def draw_crop(width: int, height: int, generator: np.random.Generator, smallest: float) -> Crop:
    """Draw a part of a picture of a share between `smallest` and 1 of its area, and mirror half of them.

    Its aspect lies between 3/4 and 4/3, evenly in the logarithm. Of ten tries the first that fits is taken, else the
    largest central part of allowed aspect.
    """
    flip = bool(generator.random() < 0.5)
    areas = width * height * generator.uniform(smallest, 1, TRIES)
    aspects = np.exp(generator.uniform(-np.log(LARGEST_ASPECT), np.log(LARGEST_ASPECT), TRIES))
    widths, heights = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    if fits.any():
        first = int(fits.argmax())
        across, down = int(widths[first]), int(heights[first])
        top, left = generator.integers([height - down + 1, width - across + 1]).tolist()
        return Crop(top, left, down, across, flip)
    across, down = min(width, round(height * LARGEST_ASPECT)), min(height, round(width * LARGEST_ASPECT))
    return Crop((height - down) // 2, (width - across) // 2, down, across, flip)


def shrink(picture: Image.Image, short_side: int, quality: int) -> bytes:
    """The picture as a JPEG whose shorter side has `short_side` pixels, its proportions kept."""
    share = short_side / min(picture.size)
    size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
