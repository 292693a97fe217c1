"""Pack region features into an image store: from npz files, a precomputed array, pictures. Or pack the pictures.

    python scripts/build_imgdb.py npz features/flickr30k --output img_db/flickr30k
    python scripts/build_imgdb.py tsv features.tsv --keep_all --output img_db/coco_train
    python scripts/build_imgdb.py precomp f30k_precomp --split train --output img_db/f30k_train
    python scripts/build_imgdb.py jpeg pictures.tar --captions captions.jsonl --split train --output img_db/train
    python scripts/build_imgdb.py jpeg pictures.tar --captions captions.jsonl --split val --output img_db/val \\
        --whitener img_db/train/native_th0.2_max100_min10/whitener.npz
    python scripts/build_imgdb.py jpeg pictures.tar --captions captions.jsonl --split test --output img_db/test_boxes \\
        --annotated_boxes --keep_all --whitener img_db/train/native_th0.2_max100_min10/whitener.npz
    python scripts/build_imgdb.py pictures flickr30k-images --captions dataset_flickr30k.json --split train \\
        --output img_db/train
    python scripts/build_imgdb.py pictures flickr30k-images --ids train_ids.txt --id_names id_mapping.json \\
        --output img_db/train --short_side 256

Annotated boxes are those that the captions' phrases name (also of Flickr30k Entities, `--entities`). `pictures` stores
the files as they are, beside whatever regions the split has; with --short_side large ones as smaller JPEGs.
A run that was killed goes on where it stopped when it is started again. Files that cannot be used are named,
counted and left out; of a precomputed array, where places count, they stop the packing.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError
from config.wording import pluralise
from data.records.image_record import encode_image
from data.records.regions import Codec, RegionRule
from data.source.butd_npz import list_npz, read_npz
from data.source.detector_output import BoxRule
from data.source.entries import Entry
from data.source.picture_selection import PictureSelection, choose, files_of, locate, read_wanted
from data.source.whitener import Whitener
from data.stores.image_writer import ImageWriter
from data.stores.picture_files import FILES
from scripts.building import pictures, precomputed, tsv
from scripts.building.packing import Packed, add_box_flags, box_rules, leave_out, nothing_packed, usable
from scripts.building.picture_regions import PictureOptions, describe_all, describe_or_tell, encode_picture, stack_parts
from scripts.building.pictures import add_choice, by_number, check_limits, listed, still_wanted
from scripts.command.parallel import cores, in_order
from scripts.command.program import Parser, run


def parser() -> argparse.ArgumentParser:
    """The program's flags."""
    common = Parser(add_help=False)
    common.add_argument("--output", type=Path, required=True, help="the split's folder, e.g. img_db/flickr30k")
    common.add_argument("--codec", choices=("native", "published", "compressed"), default="native")
    common.add_argument("--conf_th", type=float, default=RegionRule.conf_th, help="-1: a fixed number, num_bb")
    for name in ("max_bb", "min_bb", "num_bb"):
        common.add_argument(f"--{name}", type=int, default=getattr(RegionRule, name))
    common.add_argument("--keep_all", action="store_true", help="store all regions, for ground-truth boxes")
    common.add_argument("--workers", type=int, default=cores(), help="processes (default: all processors)")
    flags: argparse.ArgumentParser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = flags.add_subparsers(dest="source", required=True)
    npz = sources.add_parser("npz", parents=[common], help="a folder of npz files of a bottom-up extractor")
    npz.add_argument("input", type=Path)
    add_box_flags(npz)
    precomputed.add_program(sources)
    tsv.add_program(sources, common)
    pictures.add_program(sources)
    jpeg = sources.add_parser("jpeg", parents=[common], help="a folder or tar of pictures; simple built-in features")
    add_choice(jpeg)
    jpeg.add_argument(
        "--annotated_boxes", action="store_true", help="the boxes of the captions' phrases are the regions"
    )
    jpeg.add_argument("--max_regions", type=int, default=36, help="boxes a picture")
    jpeg.add_argument("--img_dim", type=int, default=128, help="feature width, where a whitener is fitted")
    jpeg.add_argument("--whitener", type=Path, help="whitener.npz of the training split's store")
    jpeg.add_argument("--fit_on", type=int, default=4000, help="pictures that a new whitener is fitted on")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack what is not yet packed."""
    options = parser().parse_args(arguments)
    if options.source == "precomp":
        print(f"{precomputed.pack_precomputed(options)} images in {options.output}, features without boxes")
        return 0
    if options.source == "pictures":
        count, broken = pictures.pack_originals(options)
        print(f"{pluralise(count, 'picture')} in {options.output}, {len(broken)} left out")
        return 0
    rule = RegionRule(options.conf_th, options.max_bb, options.min_bb, options.num_bb)
    pack = {"npz": pack_npz, "tsv": tsv.pack_tsv, "jpeg": pack_pictures}[options.source]
    count, broken = pack(options, rule)
    print(f"{pluralise(count, 'image')} in {options.output}, {len(broken)} left out")
    return 0


def store(writer: ImageWriter, packed: Iterable[Packed], total: int) -> tuple[int, list[str]]:
    """Put what can be put; returns the number of images in the store and the names of those left out."""
    broken: list[str] = []
    for image in usable(packed, total, broken):
        writer.put(image.name, image.record, image.regions, image.dim)
    count = len(writer.done())
    if not count:
        raise nothing_packed(broken)
    return count, broken


# ---------------------------------------------------------------- npz


def pack_npz(options: argparse.Namespace, rule: RegionRule) -> tuple[int, list[str]]:
    """Pack a folder of extractor files; image names are the file names."""
    files = list_npz(options.input)
    boxes = box_rules(options, (path.name for path in files))
    meta = {"features": "npz", "source": options.input.name}
    with ImageWriter(options.output, options.codec, rule, options.keep_all, meta) as writer:
        done = writer.done()
        waiting = [(path, how) for path, how in zip(files, boxes, strict=True) if path.name not in done]
        encode = partial(encode_npz_file, rule=rule, codec=options.codec, keep_all=options.keep_all)
        return store(writer, in_order(encode, waiting, options.workers), len(waiting))


def encode_npz_file(file: tuple[Path, BoxRule], rule: RegionRule, codec: Codec, keep_all: bool) -> Packed:
    """One extractor file as a record."""
    path, boxes = file
    try:
        arrays = read_npz(path, boxes)
        record, count = encode_image(arrays, rule, codec, keep_all)
    except DataError as error:
        return Packed(path.name, error=str(error))
    return Packed(path.name, record, count, arrays["features"].shape[1])


# ---------------------------------------------------------------- pictures


def pack_pictures(options: argparse.Namespace, rule: RegionRule) -> tuple[int, list[str]]:
    """Describe pictures on a grid of boxes, or in annotated ones, whiten, pack; the whitener is kept in the store."""
    check_limits(options)
    check_sizes(options)
    entries = images_of(options)
    wanted, boxless = choose(entries, options.image_naming, options.annotated_boxes)
    if boxless and not wanted:
        raise DataError(
            f"{options.captions or options.entities}: no caption has a phrase with a box; give annotated captions, "
            "or leave --annotated_boxes out"
        )
    located = locate(options.input, wanted, by_number(options))
    with ImageWriter(options.output, options.codec, rule, options.keep_all, description(options, entries)) as writer:
        kept = writer.partial / "whitener.npz"
        if not kept.exists():
            whitener(options, wanted, located).save(kept)
        done = writer.done()
        waiting = read_wanted(options.input, still_wanted(located, done))
        encode = partial(
            encode_picture, whitener=Whitener.load(kept), rule=rule, codec=options.codec,
            keep_all=options.keep_all, how=PictureOptions.of(options),
        )  # fmt: skip
        packed = in_order(encode, waiting, options.workers)
        count, broken = store(writer, packed, len(wanted) - len(done))
        absent = sorted({one.name for one in wanted} - writer.done() - set(broken))
    for name in absent:
        leave_out(name, f"{options.input} holds no such picture")
    for name in boxless:
        leave_out(name, "no phrase of its captions has a box")
    return count, broken + absent + boxless


def check_sizes(options: argparse.Namespace) -> None:
    """Raise ConfigError for numbers that no packing has."""
    for flag in ("max_regions", "img_dim", "fit_on"):
        if getattr(options, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(options, flag)}: give 1 or more")


def description(options: argparse.Namespace, entries: Sequence[Entry]) -> dict[str, Any]:
    """What the store's meta.json says of its regions."""
    meta = {"features": "histogram-pca", "source": options.input.name, "whitener": whitener_hash(options)}
    meta |= {name: getattr(options, name) for name in ("split", "image_naming", "max_regions", "img_dim")}
    meta |= {FILES: files_of(entries, options.image_naming)}
    meta |= {"float_range": options.float_range} if options.float_range else {}
    if options.annotated_boxes:
        files = (options.captions, options.entities, options.images)
        meta |= {"boxes": "annotated", "annotations": [path.name for path in files if path]}
    return meta


def images_of(options: argparse.Namespace) -> list[Entry]:
    """The images that the flags name; those whose boxes are annotated need a source that says where the boxes are."""
    if options.annotated_boxes and not options.keep_all:
        raise ConfigError("--annotated_boxes needs --keep_all: annotated boxes have no confidence to choose by")
    if options.annotated_boxes and not (options.captions or options.entities):
        raise ConfigError("--annotated_boxes needs --captions FILE or --entities FOLDER, which say where the boxes are")
    return listed(options)


def whitener_hash(options: argparse.Namespace) -> str:
    """sha256 of the given whitener; empty if one is to be fitted."""
    if not options.whitener:
        return ""
    Whitener.load(options.whitener)  # says what is wrong with it
    return hashlib.sha256(options.whitener.read_bytes()).hexdigest()


def whitener(
    options: argparse.Namespace, wanted: Sequence[PictureSelection], located: Mapping[str, Sequence[PictureSelection]]
) -> Whitener:
    """The given whitener, or one fitted on pictures spread evenly over the wanted ones."""
    if options.whitener:
        return Whitener.load(options.whitener)
    some = {one.name for one in wanted[:: -(-len(wanted) // options.fit_on)]}
    others = {one.name for one in wanted} - some
    chosen = read_wanted(options.input, still_wanted(located, others))
    look = partial(describe_or_tell, how=PictureOptions.of(options))
    found = in_order(look, chosen, options.workers)
    broken: list[str] = []
    try:
        return Whitener.fit(stack_parts(describe_all(found, len(some), broken)), options.img_dim)
    except DataError as error:
        if not broken:
            raise
        raise DataError(f"{error}; {pluralise(len(broken), 'picture')} cannot be used, such as {broken[0]}") from error


if __name__ == "__main__":
    run(main)
