"""Look into text and image stores, verify their records, and check that they belong together.

    python scripts/check_db.py --txt_db itm_flickr30k_train.db --img_db img_db/flickr30k
    python scripts/check_db.py --img_db img_db/flickr30k --conf_th -1 --num_bb 36 --inspect
    python scripts/check_db.py --txt_db itm_flickr30k_train.db --img_db img_db/flickr30k --pictures

With both kinds given, the first text store is checked against the first image store, and so on. What is found
goes to stdout, as JSON with --json. Leaves with 3 if anything is damaged or missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError, DataError
from config.wording import pluralise
from data.records.regions import RegionRule
from data.stores.image_store import ImageStore
from data.stores.picture_files import FILES, other_files
from data.stores.picture_store import PICTURES, PictureStore, PictureView
from data.stores.text_store import TextStore
from data.stores.variants import store_variants
from scripts.command.parallel import batches, cores, in_order, progress
from scripts.command.program import Parser, run

Images = ImageStore | PictureStore
Check = Callable[[list[str]], list[tuple[str, str]]]

BATCH = 200  # records a process checks at a time, at least
SHOWN = 10  # faults of each kind that are listed in words; --json has all


def parser() -> argparse.ArgumentParser:
    """The program's flags."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--txt_db", type=Path, nargs="+", default=[], help="text stores")
    flags.add_argument("--img_db", type=Path, nargs="+", default=[], help="image folders, img_db/<split>")
    flags.add_argument("--conf_th", type=float, default=RegionRule.conf_th)
    for name in ("max_bb", "min_bb", "num_bb"):
        flags.add_argument(f"--{name}", type=int, default=getattr(RegionRule, name))
    flags.add_argument("--codec", choices=("native", "published", "compressed"), help="insist on one layout")
    flags.add_argument(
        "--pictures", action="store_true", help="check the pictures of image folders that hold regions too"
    )
    flags.add_argument("--inspect", action="store_true", help="do not read the records")
    flags.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    flags.add_argument("--workers", type=int, default=cores(), help="processes (default: all processors)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe, verify and cross-check the named stores."""
    options = parser().parse_args(arguments)
    if not options.txt_db and not options.img_db:
        raise ConfigError("give --txt_db, --img_db or both")
    if options.txt_db and options.img_db and len(options.txt_db) != len(options.img_db):
        raise ConfigError(f"{len(options.txt_db)} --txt_db and {len(options.img_db)} --img_db: give one for each")
    rule = RegionRule(options.conf_th, options.max_bb, options.min_bb, options.num_bb, options.codec == "compressed")
    texts = [TextStore(folder) for folder in options.txt_db]
    images = [open_images(folder, rule, options) for folder in options.img_db]
    found = [about_images(store) for store in images] + [about_texts(store) for store in texts]
    if not options.inspect:
        faults = [listed_twice(store) + verify(damaged_images(store), store.names, options.workers) for store in images]
        faults += [other_vocabulary(store) + verify(store.damaged, store.ids, options.workers) for store in texts]
        for about, of_store in zip(found, faults, strict=True):
            about["faults"] = of_store
    found += [cross_check(*pair) for pair in zip(texts, images, strict=False)]
    if len(texts) > 1:
        found.append(one_vocabulary(texts))
    print(json.dumps(found, ensure_ascii=False) if options.json else in_words(found))
    count = sum(len(about.get("faults", ())) for about in found)
    if count:
        raise DataError(f"{pluralise(count, 'fault')} in {pluralise(len(found), 'check')}, listed above")
    return 0


# ---------------------------------------------------------------- inspect


def open_images(folder: Path, rule: RegionRule, options: argparse.Namespace) -> Images:
    """The regions of an image folder, or its pictures where these are asked for or all that there is."""
    if options.pictures or store_variants(folder) == [PICTURES]:
        return PictureView(side=1).open(folder)  # nothing here depends on the side
    return ImageStore(folder, rule, codec=options.codec)


def about_images(store: Images) -> dict[str, Any]:
    """What an image store holds, from its index and its first record."""
    if isinstance(store, PictureStore):
        if not store.names:
            raise DataError(f"{store.path} holds no picture; pack it again")
        first = store.stored(store.names[0])
        return {
            "pictures": str(store.path),
            "count": len(store.names),
            "megabytes": megabytes(store.path),
            "first_picture": f"{store.names[0]}, {first.width} x {first.height}, {len(first.data)} bytes",
            "meta": without_files(store.meta),
            "variants": store_variants(store.folder),
        }
    return {
        "images": str(store.path),
        "layout": store.codec,
        "count": len(store.names),
        "feature_width": store.dim,
        "feature_type": str(store.dtype),
        "has_boxes": store.has_boxes,
        "megabytes": megabytes(store.path),
        "noted_regions": spread(store.index_counts(store.names)),
        "meta": without_files(store.meta),
        "variants": store_variants(store.folder),
    }


def without_files(meta: dict[str, Any]) -> dict[str, Any]:
    """A store's description for people, with the number of its odd files in place of them all."""
    return {key: len(value) if key == FILES else value for key, value in meta.items()}


def about_texts(store: TextStore) -> dict[str, Any]:
    """What a text store holds, from its side files."""
    if not len(store):
        raise DataError(f"{store.folder} holds no caption; pack it again")
    captions = np.unique(store.images, return_counts=True)[1]
    return {
        "texts": str(store.folder),
        "count": len(store),
        "images": len(store.image_order),
        "megabytes": megabytes(store.folder),
        "words": spread(store.lengths),
        "captions_an_image": spread(captions),
        "tokenizer": store.meta.get("tokenizer") or store.meta.get("toker") or store.meta.get("bert"),
        "vocab_hash": store.vocab_hash,
        "special": asdict(store.special),
    }


def megabytes(folder: Path) -> float:
    """Size of a store's data file."""
    return round((folder / "data.mdb").stat().st_size / 1e6, 1)


def spread(values: NDArray[Any]) -> str:
    """Smallest, mean and largest of some numbers."""
    return f"{values.min()} / {values.mean():.1f} / {values.max()}" if len(values) else "none"


# ---------------------------------------------------------------- verify


def damaged_images(store: Images) -> Check:
    """What looks for damage in an image store: pictures are decoded, whatever their checksum says."""
    return partial(store.damaged, decoded=True) if isinstance(store, PictureStore) else store.damaged


def listed_twice(store: Images) -> list[tuple[str, str]]:
    """Images that a store's own list names more than once."""
    counts = Counter(store.names)
    return [(name, f"stands {counts[name]} times in the store's list") for name in counts if counts[name] > 1]


def verify(damaged: Check, keys: list[str], workers: int) -> list[tuple[str, str]]:
    """(key, reason) of every record of a store that cannot be used."""
    parts = batches(keys, max(BATCH, len(keys) // (16 * max(workers, 1))))
    checked = progress(in_order(damaged, parts, workers), len(parts), " batches")
    return [fault for faults in checked for fault in faults]


def cross_check(texts: TextStore, images: Images) -> dict[str, Any]:
    """Captions without an image, and what else to know of a pair of stores."""
    known, wanted = set(images.names), set(texts.image_order)
    absent = sorted(wanted - known)
    about: dict[str, Any] = {
        "pair": [str(texts.folder), str(images.path)],
        "images_without_captions": len(known - wanted),
    }
    if not absent and isinstance(images, ImageStore):
        regions = dict(zip(texts.image_order, images.index_counts(texts.image_order).tolist(), strict=True))
        joint = texts.lengths + np.array([regions[name] for name in texts.images]) + 2
        about["words_and_regions"] = spread(joint)
    about["faults"] = [(name, "has captions but is not in the image store") for name in absent]
    about["faults"] += [("files", told) for told in other_files(texts.meta, images.meta, texts.image_order)]
    return about


def other_vocabulary(store: TextStore) -> list[tuple[str, str]]:
    """The fault of a store whose copy of the vocabulary is not the one that it was written with."""
    path = store.folder / "vocab.txt"
    if store.vocab_hash is None or not path.exists():
        return []
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == store.vocab_hash
    except OSError as error:
        return [(path.name, f"cannot be read ({error.strerror})")]
    return [] if same else [(path.name, "is not the vocabulary that the captions were written with")]


def one_vocabulary(texts: Sequence[TextStore]) -> dict[str, Any]:
    """Stores that are used together must have been written with one vocabulary."""
    hashes = {store.vocab_hash for store in texts}
    faults = [(str(store.folder), f"written with vocabulary {store.vocab_hash}") for store in texts]
    return {"vocabularies": len(hashes), "faults": faults if len(hashes) > 1 else []}


def in_words(found: Sequence[dict[str, Any]]) -> str:
    """Lines for people."""
    lines = []
    for about in found:
        for name, value in about.items():
            if name != "faults":
                lines.append(f"{name}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}")
        faults = about.get("faults", ())
        lines += [f"FAULT {key}: {reason}" for key, reason in faults[:SHOWN]]
        if len(faults) > SHOWN:
            lines.append(f"... and {len(faults) - SHOWN} more faults")
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    run(main)
