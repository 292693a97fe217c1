"""Small pictures and stores of them, for the tests of whatever reads pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.stores.picture_store import PictureWriter, encode_picture


def drawn(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """Soft random colours, different in every corner."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_picture_store(folder: Path, names: list[str], **size: int) -> list[bytes]:
    """A store of one drawn picture a name; returns their files."""
    files = [encoded(drawn(number, **size)) for number in range(len(names))]
    with PictureWriter(folder) as writer:
        for name, file in zip(names, files, strict=True):
            writer.put(name, encode_picture(file))
    return files
