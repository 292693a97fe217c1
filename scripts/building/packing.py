"""What the packers of images share: one image ready to be stored, and the naming of those that are left out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from config.errors import DataError
from data.source.detector_output import BoxRule, read_sizes, size_of
from scripts.command.parallel import progress


class Packed(NamedTuple):
    """One image ready to be stored, or why it is not; pictures have neither regions nor a width."""

    name: str
    record: bytes = b""
    regions: int = 0
    dim: int = 0
    error: str = ""


def usable(packed: Iterable[Packed], total: int, broken: list[str], what: str = " images") -> Iterator[Packed]:
    """The images that can be stored, with a bar of `total`; the others are named, and put on the list `broken`."""
    for image in progress(packed, total, what):
        if image.error:
            leave_out(image.name, image.error)
            broken.append(image.name)
        else:
            yield image


def leave_out(name: str, why: str) -> None:
    """Say that an image is not packed."""
    print(f"{name} left out: {why}", file=sys.stderr)


def nothing_packed(broken: list[str]) -> DataError:
    """The error for a store that would be empty."""
    return DataError(f"none of {len(broken)} inputs could be packed; see the messages above")


def add_box_flags(flags: argparse.ArgumentParser) -> None:
    """What a detector's files may leave open about their boxes."""
    flags.add_argument("--pixel_boxes", action="store_true", help="boxes in six numbers are in pixels as well")
    flags.add_argument(
        "--image_sizes", type=Path, metavar="FILE",
        help="JSON map from image names to [width, height], where the files do not tell them",
    )  # fmt: skip


def box_rules(options: argparse.Namespace, images: Iterable[str]) -> Iterator[BoxRule]:
    """How the boxes of each image are read."""
    sizes = read_sizes(options.image_sizes) if options.image_sizes else {}
    return (BoxRule(options.pixel_boxes, size_of(image, sizes)) for image in images)
