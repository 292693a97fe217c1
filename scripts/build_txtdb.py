"""Pack captions into a text store: WordPiece ids, the image of each caption, and the vocabulary they depend on.

    python scripts/build_txtdb.py --annotations dataset_flickr30k.json --split train --vocab vocab.txt \\
        --image_naming "flickr30k_{id:012d}.npz" --output txt_db/itm_flickr30k_train.db
    python scripts/build_txtdb.py --annotations captions.jsonl --split train --make_vocab 4000 --output train.db
    python scripts/build_txtdb.py --ids test_ids.txt.gz --captions test_caps.txt.gz --vocab vocab.txt --output test.db
    python scripts/build_txtdb.py --entities Flickr30kEntities --images test.txt --vocab vocab.txt --output test.db

Captions whose source marks phrases and their boxes (Flickr30k Entities, JSON lines) keep them as `objects`, which ISDa
is measured on. The store keeps a copy of the vocabulary as vocab.txt; pack the other splits with
`--vocab train.db/vocab.txt`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError
from data.source.captions import Caption, Entry, read_caption_files, read_captions, select
from data.source.entities import read_entities
from data.texts import TextWriter, caption_record
from data.words import WordPiece, make_vocabulary
from scripts._program import batches, cores, in_order, progress, run

BATCH = 500


def parser() -> argparse.ArgumentParser:
    """The program's flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--annotations", type=Path, help="Karpathy .json or captions .jsonl (plain or .gz)")
    flags.add_argument("--ids", type=Path, help="text file of image ids, one a line (plain or .gz)")
    flags.add_argument("--captions", type=Path, help="text file of captions, one a line (plain or .gz)")
    flags.add_argument("--id_names", type=Path, help="JSON map from id to picture file, for --ids (plain or .gz)")
    flags.add_argument("--entities", type=Path, help="Flickr30k Entities folder with Sentences and Annotations")
    flags.add_argument("--images", type=Path, help="text file of image ids, one a line: a split, for --entities")
    flags.add_argument("--split", nargs="+", help="take only entries of these splits")
    flags.add_argument("--vocab", type=Path, help="WordPiece vocabulary file, one piece a line")
    flags.add_argument("--make_vocab", type=int, metavar="SIZE", help="learn a vocabulary from these captions")
    flags.add_argument("--lower_case", action="store_true", help="for uncased vocabularies: lower case, no accents")
    flags.add_argument(
        "--image_naming", default="{stem}.npz", metavar="TEMPLATE",
        help="image names from {stem} or {id}, the trailing number, e.g. flickr30k_{id:012d}.npz",
    )  # fmt: skip
    flags.add_argument("--output", type=Path, required=True, help="the store's folder, e.g. itm_flickr30k_train.db")
    flags.add_argument("--workers", type=int, default=cores(), help="processes (default: all processors)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, tokenise, write; captions without a word are named, counted and left out."""
    options = parser().parse_args(arguments)
    entries = select(read(options), options.split)
    with tempfile.TemporaryDirectory() as folder:
        words = WordPiece(vocabulary(options, entries, Path(folder)), options.lower_case)
        files = (options.annotations, options.ids, options.captions, options.entities, options.images)
        source = [path.name for path in files if path]
        meta = {"annotations": source, "split": options.split, "image_naming": options.image_naming}
        packed, empty = pack(entries, words, options.output, options.image_naming, meta, options.workers)
    print(f"{packed} captions of {len(entries)} images in {options.output}, {len(empty)} left out")
    return 0


def read(options: argparse.Namespace) -> list[Entry]:
    """The entries of whichever kind of source the flags name."""
    if options.images and not options.entities:
        raise ConfigError("--images needs --entities, the folder that it lists images of")
    given = [name for name in ("annotations", "ids", "captions", "entities") if getattr(options, name)]
    if given == ["annotations"]:
        return read_captions(options.annotations)
    if given == ["ids", "captions"]:
        return read_caption_files(options.ids, options.captions, options.id_names)
    if given == ["entities"]:
        return read_entities(options.entities, options.images)
    raise ConfigError("give either --annotations FILE, or both --ids FILE and --captions FILE, or --entities FOLDER")


def vocabulary(options: argparse.Namespace, entries: list[Entry], folder: Path) -> Path:
    """The vocabulary file: the given one, or one learnt from the captions and written into `folder`."""
    if (options.vocab is None) == (options.make_vocab is None):
        raise ConfigError("give either --vocab FILE or --make_vocab SIZE")
    if options.vocab:
        return Path(options.vocab)
    texts = (caption.text for entry in entries for caption in entry.captions)
    path = folder / "vocab.txt"
    path.write_text("\n".join(make_vocabulary(texts, options.make_vocab, options.lower_case)) + "\n", "utf-8")
    return path


def pack(
    entries: Sequence[Entry],
    words: WordPiece,
    output: Path,
    naming: str,
    meta: dict[str, Any],
    workers: int = 1,
) -> tuple[int, list[str]]:
    """Write the store; returns the number of captions packed and the ids of those left out for want of words."""
    named = [(entry.image_name(naming), entry) for entry in entries]
    empty: list[str] = []
    with TextWriter(output, {**meta, **words.meta}) as writer:
        shutil.copyfile(words.path, writer.partial / "vocab.txt")
        parts = in_order(partial(records, words), batches(named, BATCH), workers)
        for part in progress(parts, -(-len(named) // BATCH), " batches"):
            for caption, record in part:
                if record["input_ids"]:
                    writer.add(caption, record)
                    continue
                empty.append(caption)
                print(f"caption {caption} of {record['img_fname']} has no word, left out", file=sys.stderr)
        if not len(writer):
            raise DataError("there is no caption to pack; check the source and --split")
    return len(writer), empty


def records(words: WordPiece, named: list[tuple[str, Entry]]) -> list[tuple[str, dict[str, Any]]]:
    """Ids and records of all captions of some images."""
    return [
        (caption.id, caption_record(words, caption.text, name, fields(entry, caption)))
        for name, entry in named
        for caption in entry.captions
    ]


def fields(entry: Entry, caption: Caption) -> dict[str, Any]:
    """What the source says of a caption, with the number of its image."""
    return {**caption.fields, "image_id": entry.image if entry.number is None else entry.number}


if __name__ == "__main__":
    run(main)
