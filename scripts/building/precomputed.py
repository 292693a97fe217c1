"""Flags and packing of precomputed features, for the packing programs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from config.errors import ConfigError
from data.records.image_record import DTYPES
from data.source.entries import Entry
from data.source.precomputed import DEV_LIMIT, Precomputed, PrecomputedImages, read_precomputed
from data.stores.image_writer import ImageWriter
from scripts.command.parallel import progress


def add_flags(flags: argparse.ArgumentParser) -> None:
    """What both programs ask of a precomputed folder, so that their names for an image agree."""
    flags.add_argument("--dataset", help="begins the names of precomputed images (default: the folder's name)")
    flags.add_argument(
        "--dev_limit", type=int, default=DEV_LIMIT, metavar="CAPTIONS",
        help=f"captions of a precomputed folder's split dev, from the first; 0: all (default: {DEV_LIMIT})",
    )  # fmt: skip
    flags.add_argument(
        "--captions_per_image", type=int, default=0, metavar="N",
        help="captions of each image of a precomputed folder, where its files leave that open (default: they say)",
    )  # fmt: skip


def splits_of(folder: Path, splits: Sequence[str], options: argparse.Namespace) -> list[Precomputed]:
    """Some splits of a folder, as the flags of `add_flags` want them."""
    wanted = options.dataset, options.dev_limit, options.captions_per_image
    return [read_precomputed(folder, split, *wanted) for split in splits]


def add_program(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The kind of source `precomp` of build_imgdb.py."""
    precomp = sources.add_parser("precomp", help="a folder of precomputed features: <split>_ims.npy, <split>_caps.txt")
    precomp.add_argument("input", type=Path)
    precomp.add_argument("--split", nargs="+", required=True, help="train, dev, test or testall")
    precomp.add_argument("--output", type=Path, required=True, help="the split's folder, e.g. img_db/f30k_train")
    precomp.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="float32 keeps every bit of the source")
    precomp.add_argument("--image_naming", default="{stem}.npz", help="as in build_txtdb.py")
    add_flags(precomp)


def pack_precomputed(options: argparse.Namespace) -> int:
    """Pack all images of the splits, features alone, every region; returns how many there are.

    An image that cannot be used stops the packing: published lists count on its place.
    """
    splits = [(split, PrecomputedImages(split)) for split in splits_of(options.input, options.split, options)]
    meta = {"features": "precomputed", "source": options.input.name, "split": options.split}
    meta |= {"dataset": splits[0][0].dataset, "image_naming": options.image_naming}
    wanted = [
        (Entry(split.image(row), split.split, ()).image_name(options.image_naming), images, row)
        for split, images in splits
        for row in range(len(split))
    ]
    if len({name for name, _, _ in wanted}) < len(wanted):
        raise ConfigError(f"image_naming {options.image_naming!r} gives two images one name; use {{stem}}")
    with ImageWriter(options.output, keep_all=True, meta=meta, features_only=options.dtype) as writer:
        done = writer.done()
        for name, images, row in progress(wanted, len(wanted), " images"):
            if name not in done:
                writer.add_features(name, images.read(row))
        return len(writer.done())
