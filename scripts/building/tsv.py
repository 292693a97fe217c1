"""Packing of region features that lie in a .tsv file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from config.errors import DataError
from data.records.image_record import DTYPES, encode_image
from data.records.regions import RegionRule
from data.source.detector_output import BoxRule
from data.source.entries import Entry, name_images
from data.source.region_tsv import Place, TsvFile, predictions_of, read_row
from data.stores.image_writer import ImageWriter
from data.stores.lmdb_store import read_back
from scripts.building.packing import Packed, add_box_flags, box_rules, nothing_packed, usable
from scripts.command.parallel import in_order


class Row(NamedTuple):
    """A picture's name, and where its regions and predictions are."""

    name: str
    place: Place
    predictions: Place | None
    boxes: BoxRule


def add_program(
    sources: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """The kind of source `tsv` of build_imgdb.py."""
    tsv = sources.add_parser("tsv", parents=[common], help="a .tsv of bottom-up attention, LXMERT or VinVL")
    tsv.add_argument("input", type=Path, help="its .lineidx beside it is used, if there is one")
    tsv.add_argument("--predictions", type=Path, help="VinVL's predictions.tsv, for boxes and confidences")
    tsv.add_argument("--columns", metavar="NAMES", help="of the file, with commas (default: known by their number)")
    tsv.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="float32 keeps every bit of the features")
    add_box_flags(tsv)
    tsv.add_argument("--image_naming", default="{stem}.npz", help="as in build_txtdb.py, of the keys")


def pack_tsv(options: argparse.Namespace, rule: RegionRule) -> tuple[int, list[str]]:
    """Pack the rows of a file and read them back; returns how many images there are, and those left out.

    Raises:
        ConfigError: the flags do not go together, or two keys give one name.
        DataError: the file is none, its rows cannot be used, or what was written does not read back.
    """
    columns = tuple(options.columns.split(",")) if options.columns else None
    rows = rows_of(options)
    encode = partial(encode_row, columns=columns, rule=rule, options=options)
    check_some(rows, encode)
    meta = {"features": "tsv", "source": options.input.name, "image_naming": options.image_naming}
    meta |= {"predictions": options.predictions.name} if options.predictions else {}
    broken: list[str] = []
    with ImageWriter(options.output, options.codec, rule, options.keep_all, meta, dtype=options.dtype) as writer:
        done = writer.done()
        waiting = [row for row in rows if row.name not in done]
        for image in usable(in_order(encode, waiting, options.workers), len(waiting), broken):
            writer.put(image.name, image.record, image.regions, image.dim)
        if not writer.done():
            raise nothing_packed(broken)
    read_back(writer.path, writer.checksums)
    return len(writer.done()), broken


def rows_of(options: argparse.Namespace) -> list[Row]:
    """The rows of the file, with the names of their images."""
    file = TsvFile(options.input)
    predicted = predictions_of(file.keys, TsvFile(options.predictions)) if options.predictions else {}
    named = name_images((Entry(key, "", ()) for key in file.keys), options.image_naming)
    rules = box_rules(options, (name for name, _ in named))
    return [
        Row(name, file.place(at), predicted.get(entry.image), how)
        for at, ((name, entry), how) in enumerate(zip(named, rules, strict=True))
    ]


def check_some(rows: Sequence[Row], encode: Callable[[Row], Packed]) -> None:
    """Raise DataError where neither the first row, the middle one nor the last can be used: so it is with all of them.

    It is said before anything is written. One row that is torn is left out by its name.
    """
    some = [encode(rows[at]).error for at in (0, len(rows) // 2, len(rows) - 1)]
    if all(some):
        raise DataError(some[0])


def encode_row(row: Row, columns: tuple[str, ...] | None, rule: RegionRule, options: argparse.Namespace) -> Packed:
    """One row as a record."""
    try:
        arrays = read_row(row.place, columns, row.predictions, row.boxes)
        record, count = encode_image(arrays, rule, options.codec, options.keep_all, options.dtype)
    except DataError as error:
        told = str(error)
        return Packed(row.name, error=told if told.startswith(str(row.place)) else f"{row.place}: {told}")
    return Packed(row.name, record, count, arrays["features"].shape[1])
