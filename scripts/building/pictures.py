"""Which pictures are packed, for both kinds of packing; and the packing of the pictures themselves."""

from __future__ import annotations

import argparse
import math
from collections.abc import Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError
from data.records.pixels import MOST_PIXELS, to_8_bit
from data.source.captions import read_captions, read_image_ids
from data.source.entities import read_entities
from data.source.entries import Entry, select
from data.source.picture_selection import (
    Picture,
    PictureSelection,
    choose,
    every_picture,
    files_of,
    locate,
    read_wanted,
)
from data.stores.picture_files import FILES
from data.stores.picture_store import PictureWriter, encode_picture
from scripts.building.packing import Packed, leave_out, nothing_packed, usable
from scripts.command.parallel import cores, in_order

QUALITY = 90
LISTS = {"captions": "FILE", "entities": "FOLDER", "ids": "FILE"}  # say which pictures there are; one at most


def add_choice(flags: argparse.ArgumentParser) -> None:
    """What a packer asks of pictures: where they are, which are wanted, and under which names."""
    flags.add_argument("input", type=Path)
    flags.add_argument("--captions", type=Path, help="take only the pictures of this captions file ...")
    flags.add_argument("--split", nargs="+", help="... and of these splits")
    flags.add_argument("--entities", type=Path, help="... or of this Flickr30k Entities folder ...")
    flags.add_argument("--images", type=Path, help="... and of this list of image ids, a text file, one a line")
    flags.add_argument("--ids", type=Path, help="... or of this text file of image ids, one a line, often or once ...")
    flags.add_argument(
        "--id_names", type=Path, help="... whose picture files this JSON map names; else a file's last number is its id"
    )
    flags.add_argument("--image_naming", default="{stem}.npz", help="as in build_txtdb.py")
    flags.add_argument("--max_pixels", type=int, default=MOST_PIXELS, metavar="N",
                       help="leave out pictures of more pixels (default: %(default)s)")
    flags.add_argument("--float_range", type=float, nargs=2, metavar=("BLACK", "WHITE"),
                       help="what is black and white in pictures of floating numbers, such as 0 1")


def add_program(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The kind of source `pictures` of build_imgdb.py."""
    pictures = sources.add_parser("pictures", help="a folder or tar of pictures, stored as they are")
    add_choice(pictures)
    pictures.add_argument("--output", type=Path, required=True, help="the split's folder, e.g. img_db/flickr30k")
    pictures.add_argument(
        "--short_side", type=int, metavar="PIXELS", help="store pictures with a longer shorter side as smaller JPEGs"
    )
    pictures.add_argument("--quality", type=int, help=f"of those JPEGs, 1 to 100 (default: {QUALITY})")
    pictures.add_argument("--workers", type=int, default=cores(), help="processes (default: all processors)")


def listed(options: argparse.Namespace) -> list[Entry]:
    """The images that the flags name: of a captions file, of annotations, of a list of ids, or all pictures.

    Raises:
        ConfigError: the flags do not go together.
    """
    given = [f"--{name} {what}" for name, what in LISTS.items() if getattr(options, name)]
    if len(given) > 1:
        raise ConfigError(f"give either {' or '.join(given)}")
    if options.images and not options.entities:
        raise ConfigError("--images needs --entities, the folder that it lists images of")
    if options.id_names and not options.ids:
        raise ConfigError("--id_names needs --ids, the file of ids that it names pictures for")
    if options.captions:
        return select(read_captions(options.captions), options.split)
    if options.entities:
        return select(read_entities(options.entities, options.images), options.split)
    if options.split:
        raise ConfigError("--split needs --captions, the file that says which picture is in which split")
    return read_image_ids(options.ids, options.id_names) if options.ids else every_picture(options.input)


def check_limits(options: argparse.Namespace) -> None:
    """Raise ConfigError for limits that no picture keeps."""
    if options.max_pixels < 1:
        raise ConfigError(f"--max_pixels {options.max_pixels}: give 1 or more")
    if options.float_range and not options.float_range[0] < options.float_range[1] < math.inf:
        black, white = options.float_range
        raise ConfigError(f"--float_range {black:g} {white:g}: give black, then white, such as 0 1")


def by_number(options: argparse.Namespace) -> bool:
    """Whether pictures are found by the number that ends their file's name: ids are all that is known of them."""
    return bool(options.ids) and not options.id_names


def pack_originals(options: argparse.Namespace) -> tuple[int, list[str]]:
    """Pack the wanted pictures as they are; returns how many there are, and the names of those left out.

    Raises:
        ConfigError: the flags do not go together.
        DataError: none of the pictures can be packed, or two would have one name.
    """
    short_side, quality = size_and_quality(options)
    check_limits(options)
    entries = listed(options)
    wanted = choose(entries, options.image_naming, annotated=False)[0]
    located = locate(options.input, wanted, by_number(options))
    broken: list[str] = []
    with PictureWriter(options.output, description(options, entries, short_side, quality)) as writer:
        done = writer.done()
        found = read_wanted(options.input, still_wanted(located, done))
        encode = partial(encode_one, short_side=short_side, quality=quality, max_pixels=options.max_pixels,
                         float_range=options.float_range)  # fmt: skip
        packed = in_order(encode, found, options.workers)
        for picture in usable(packed, len(wanted) - len(done), broken, " pictures"):
            writer.put(picture.name, picture.record)
        absent = sorted({one.name for one in wanted} - writer.done() - set(broken))
        for name in absent:
            leave_out(name, f"{options.input} holds no such picture")
        if not writer.done():
            raise nothing_packed(broken + absent)
        return len(writer.done()), broken + absent


def still_wanted(
    located: Mapping[str, Sequence[PictureSelection]], done: Container[str]
) -> dict[str, list[PictureSelection]]:
    """The pictures that are not packed yet."""
    left = {path: [one for one in ones if one.name not in done] for path, ones in located.items()}
    return {path: ones for path, ones in left.items() if ones}


def size_and_quality(options: argparse.Namespace) -> tuple[int | None, int]:
    """The flags --short_side and --quality, checked."""
    if options.quality is not None and options.short_side is None:
        raise ConfigError("--quality needs --short_side: pictures that keep their size are stored as they are")
    quality = QUALITY if options.quality is None else options.quality
    if not 1 <= quality <= 100 or (options.short_side is not None and options.short_side < 1):
        raise ConfigError(f"--short_side {options.short_side}, --quality {quality}: give at least 1, and 1 to 100")
    return options.short_side, quality


def description(
    options: argparse.Namespace, entries: Sequence[Entry], short_side: int | None, quality: int
) -> dict[str, Any]:
    """What the store's meta.json says of where its pictures come from."""
    files = [getattr(options, name) for name in (*LISTS, "images", "id_names")]
    meta = {"source": options.input.name, "listed_in": [path.name for path in files if path], "split": options.split}
    meta |= {"image_naming": options.image_naming, "short_side": short_side}
    meta |= {FILES: files_of(entries, options.image_naming)}
    meta |= {"float_range": options.float_range} if options.float_range else {}
    return meta | ({} if short_side is None else {"quality": quality})


def encode_one(
    picture: Picture, short_side: int | None, quality: int, max_pixels: int, float_range: Sequence[float] | None
) -> Packed:
    """One picture as a record."""
    try:
        data = to_8_bit(picture.data, float_range, max_pixels) if float_range else picture.data
        return Packed(picture.name, encode_picture(data, short_side, quality, max_pixels))
    except DataError as error:
        return Packed(picture.name, error=str(error))
