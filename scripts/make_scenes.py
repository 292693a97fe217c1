"""Make a picture set that needs no download: rendered scenes, captions, boxes, regions, and stores ready to train on.

    python scripts/make_scenes.py --output scenes
    python scripts/make_scenes.py --output scenes-large --train 29000 --val 1000 --test 1000 --seed 1

Scenes of two to five objects come in groups of four that differ from the first in one attribute or one
relation, so that naming the colours is not enough. The same flags give the same set, whatever the number of
workers. A run that was killed goes on where it stopped when it is started again; the output folder appears
when it is complete:

    pictures/<split>/<image_id>.jpg   captions.jsonl   vocab.txt   scenes.json
    img_db/<split>/                   txt_db/itm_scenes_<split>.db/

Image folders hold both regions and pictures. A finished set of before there were pictures is given them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError
from data.files import write_text
from data.source.captions import read_captions
from data.source.entries import select
from data.source.jpeg import RAW_DIM, Whitener
from data.stores.image_writer import ImageWriter
from data.stores.picture_store import PICTURES, PictureWriter, encode_picture
from data.words.wordpiece import WordPiece
from scripts.build_txtdb import pack
from scripts.command.parallel import cores, in_order, progress
from scripts.command.program import Parser, run
from scripts.scenes.detect import RULE
from scripts.scenes.grammar import vocabulary
from scripts.scenes.shard import SPLITS, Shard, image_id, make_shard, read_regions, shards

VERSION = 2  # to be raised whenever the same flags give another set


def parser() -> argparse.ArgumentParser:
    """The program's flags."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--output", type=Path, required=True, help="folder of the set; must not exist yet")
    for split, count in zip(SPLITS, (2000, 200, 500), strict=True):
        flags.add_argument(f"--{split}", type=int, default=count, help=f"{split} scenes (default {count})")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--img_dim", type=int, default=64, help=f"feature width, 1 to {RAW_DIM} (default 64)")
    flags.add_argument("--workers", type=int, default=cores(), help="processes (default: all processors)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is not there yet, then let the finished folder appear."""
    options = parser().parse_args(arguments)
    _check(options)
    recipe = _recipe(options)
    if options.output.exists():
        _compare(options.output, recipe)
        _store_pictures(options.output, recipe)
        print(f"{options.output} is there already")
        return 0
    partial = options.output.with_name(options.output.name + ".partial")
    with _alone(partial):
        _begin(partial, recipe)
        _build(partial, options, recipe)
        shutil.rmtree(partial / "shards")
        os.replace(partial, options.output)
    counts = ", ".join(f"{count} {split}" for split, count in recipe["counts"].items())
    print(f"{options.output}: {counts} scenes; region rule {_flags(recipe['rule'])}, img_dim {options.img_dim}")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.train < 1 or min(options.val, options.test) < 0:
        raise ConfigError(f"train {options.train}, val {options.val}, test {options.test}: give train at least 1")
    if not 1 <= options.img_dim <= RAW_DIM:
        raise ConfigError(
            f"img_dim {options.img_dim} does not fit: there are {RAW_DIM} raw features, choose 1 to {RAW_DIM}"
        )


def _recipe(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that decides what the set contains; kept in it as scenes.json."""
    counts = {split: getattr(options, split) for split in SPLITS if getattr(options, split)}
    return {
        "version": VERSION,
        "seed": options.seed,
        "counts": counts,
        "img_dim": options.img_dim,
        "rule": {name: asdict(RULE)[name] for name in ("conf_th", "max_bb", "min_bb")},
    }


def _flags(rule: dict[str, Any]) -> str:
    return " ".join(f"{name} {value}" for name, value in rule.items())


def _compare(output: Path, recipe: dict[str, Any]) -> None:
    """Refuse to take another set, or something else, for this one."""
    try:
        there = json.loads((output / "scenes.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{output} exists and is no set of scenes; choose another --output") from error
    differing = [name for name in recipe if not isinstance(there, dict) or there.get(name) != recipe[name]]
    if differing:
        raise ConfigError(f"{output} was made with another {differing[0]}; remove it or choose another --output")


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Hold the folder in the making, so that two runs do not build it at once."""
    partial.mkdir(parents=True, exist_ok=True)
    folder = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(f"{partial} is being made by another process; wait for it or stop it") from error
    finally:
        os.close(folder)


def _begin(partial: Path, recipe: dict[str, Any]) -> None:
    """Clear what a run with other flags left behind, and note the flags of this one."""
    note = partial / "scenes.json"
    if not note.exists() and {path.name for path in partial.iterdir()} - {"scenes.json.partial"}:
        raise DataError(f"{partial} is in the way and was not made by this program; move it")
    if not note.exists() or json.loads(note.read_text("utf-8")) != recipe:
        for path in partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        write_text(note, json.dumps(recipe, indent=2) + "\n")


def _build(folder: Path, options: argparse.Namespace, recipe: dict[str, Any]) -> None:
    parts = {split: shards(folder, options.seed, split, count) for split, count in recipe["counts"].items()}
    together = [shard for of_split in parts.values() for shard in of_split]
    for _ in progress(in_order(make_shard, together, options.workers), len(together), " shards"):
        pass
    write_text(folder / "captions.jsonl", "".join(row + "\n" for shard in together for row in shard.rows()))
    write_text(folder / "vocab.txt", "\n".join(vocabulary()) + "\n")

    whitener = Whitener.fit((read_regions(shard).raw for shard in parts["train"]), options.img_dim)
    meta = {"source": "make_scenes.py", "recipe": recipe}
    _store_pictures(folder, recipe)
    entries, words = read_captions(folder / "captions.jsonl"), WordPiece(folder / "vocab.txt")
    for split, of_split in parts.items():
        _store_regions(folder / "img_db" / split, of_split, whitener, {**meta, "features": "scenes", "split": split})
        texts = folder / "txt_db" / f"itm_scenes_{split}.db"
        if not texts.exists():
            pack(select(entries, [split]), words, texts, "{stem}.npz", {**meta, "split": split})


def _store_regions(folder: Path, parts: list[Shard], whitener: Whitener, meta: dict[str, Any]) -> None:
    """Whitened regions of one split; the whitener lies in every store, for pictures that come later."""
    if (folder / RULE.folder_name("native")).exists():
        return
    with ImageWriter(folder, "native", RULE, meta=meta) as writer:
        whitener.save(writer.partial / "whitener.npz")
        done = writer.done()
        for shard in parts:
            regions = read_regions(shard)
            features = whitener.transform(regions.raw)
            for index, (start, end) in enumerate(zip(regions.offsets, regions.offsets[1:], strict=False), shard.first):
                name = image_id(shard.split, index) + ".npz"
                if name not in done:
                    rows = slice(start, end)
                    writer.add(name, features[rows], regions.norm_bb[rows], regions.conf[rows])


def _store_pictures(folder: Path, recipe: dict[str, Any]) -> None:
    """The drawn pictures of each split beside its regions, where they are not stored yet."""
    for split, count in recipe["counts"].items():
        if (folder / "img_db" / split / PICTURES).exists():
            continue
        meta = {"source": "make_scenes.py", "recipe": recipe, "split": split}
        with PictureWriter(folder / "img_db" / split, meta) as writer:
            done = writer.done()
            for name in (image_id(split, index) for index in range(count)):
                if name + ".npz" not in done:
                    writer.put(name + ".npz", _picture_record(folder / "pictures" / split / f"{name}.jpg"))


def _picture_record(path: Path) -> bytes:
    try:
        return encode_picture(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; remove the set and make it again") from error
    except DataError as error:
        raise DataError(f"{path} {error}; remove the set and make it again") from error


if __name__ == "__main__":
    run(main)
