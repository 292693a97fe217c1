"""Pack captions into a text store: their words as ids, the image of each, and the vocabulary they depend on.

    python scripts/build_txtdb.py --annotations dataset_flickr30k.json --split train --vocab vocab.txt \\
        --image_naming "flickr30k_{id:012d}.npz" --output txt_db/itm_flickr30k_train.db
    python scripts/build_txtdb.py --annotations captions.jsonl --split train --make_vocab 4000 --output train.db
    python scripts/build_txtdb.py --ids test_ids.txt.gz --captions test_caps.txt.gz --vocab vocab.txt --output test.db
    python scripts/build_txtdb.py --ids dev_ids.txt --captions dev_caps.txt --id_names id_mapping.json \\
        --vocab vocab.txt --lower_case --clean_first --output dev.db
    python scripts/build_txtdb.py --entities Flickr30kEntities --images test.txt --vocab vocab.txt --output test.db
    python scripts/build_txtdb.py --precomp f30k_precomp --split train --words f30k_precomp_vocab.pkl --output train.db
    python scripts/build_txtdb.py --precomp f30k_precomp --split train --precaps --words f30k_precomp_vocab.json \\
        --output train_bfan.db
    python scripts/build_txtdb.py --precomp f30k_precomp --split train --make_words --words_splits train dev \\
        --output train.db

Vocabularies are WordPieces (--vocab, --make_vocab) or whole words (--words, --make_words); either kind goes with any
source, and which one is the matcher's choice: UNITER takes pieces, VSRN and BFAN take words.
Captions whose source marks phrases and their boxes (Flickr30k Entities, JSON lines) keep them as `objects`, which ISDa
is measured on. The store keeps a copy of the vocabulary as vocab.txt, or vocab.json; pack the other splits with
`--vocab train.db/vocab.txt`, or `--words train.db/vocab.json`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError
from config.wording import pluralise
from data.records.phrases import check_phrases
from data.source.captions import read_caption_files, read_captions
from data.source.entities import read_entities
from data.source.entries import Caption, Entry, name_images, select
from data.source.lines import Faults
from data.source.picture_selection import files_of
from data.stores.picture_files import FILES
from data.stores.text_store import TextWriter, caption_record
from data.words.vocabulary import Vocabulary
from data.words.word_list import CaptionWords, WordList
from data.words.wordpiece import Tokenizer, WordPiece, make_vocabulary
from scripts.building.precomputed import add_flags, splits_of
from scripts.command.parallel import batches, cores, in_order, progress
from scripts.command.program import Parser, run

BATCH = 500
PIECES = ("lower_case", "clean_first", "special_words")
"""Flags that say how captions become WordPieces."""
MIN_COUNT = 4
NEEDED = (
    ("images", "entities", "the folder that it lists images of"),
    ("precomp", "split", "such as train"),
    ("precaps", "precomp", "the folder with the file"),
    ("precaps", "words", "the vocabulary that the file was written with"),
    ("words_splits", "make_words", "they are the splits whose words are counted"),
)


def parser() -> argparse.ArgumentParser:
    """The program's flags."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--annotations", type=Path, help="Karpathy .json or captions .jsonl (plain or .gz)")
    flags.add_argument("--ids", type=Path, help="text file of image ids, one a line (plain or .gz)")
    flags.add_argument("--captions", type=Path, help="text file of captions, one a line (plain or .gz)")
    flags.add_argument("--id_names", type=Path, help="JSON map from id to picture file, for --ids (plain or .gz)")
    flags.add_argument("--entities", type=Path, help="Flickr30k Entities folder with Sentences and Annotations")
    flags.add_argument("--images", type=Path, help="text file of image ids, one a line: a split, for --entities")
    flags.add_argument("--precomp", type=Path, help="folder of precomputed data with <split>_caps.txt; needs --split")
    flags.add_argument("--precaps", action="store_true", help="take the word ids of <split>_precaps.txt as they are")
    add_flags(flags)
    flags.add_argument("--split", nargs="+", help="take only entries of these splits")
    flags.add_argument("--vocab", type=Path, help="WordPiece vocabulary file, one piece a line")
    flags.add_argument("--make_vocab", type=int, metavar="SIZE", help="learn WordPieces from these captions")
    flags.add_argument("--lower_case", action="store_true", help="for uncased vocabularies: lower case, no accents")
    flags.add_argument(
        "--clean_first", action="store_true",
        help="drop control characters before captions are split into words, as LAPS's tokenizer does",
    )  # fmt: skip
    flags.add_argument(
        "--special_words", action="store_true",
        help="a caption's word [CLS], [SEP], [MASK], [UNK] or [PAD] is that token, as in published stores; else split",
    )  # fmt: skip
    flags.add_argument("--words", type=Path, help="word vocabulary, .json or .pkl with word2idx, idx2word and idx")
    flags.add_argument(
        "--make_words", type=int, nargs="?", const=MIN_COUNT, metavar="MIN_COUNT",
        help=f"a vocabulary of the words that occur so often, {MIN_COUNT} times if no number is given",
    )  # fmt: skip
    flags.add_argument("--words_splits", nargs="+", metavar="SPLIT", help="count the words of these (default: --split)")
    flags.add_argument("--punkt", type=Path, help="folder of a trained Punkt model, which knows abbreviations")
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
    check(options)
    entries = read(options)
    check_entries(entries, options)
    with tempfile.TemporaryDirectory() as folder:
        words = tokenizer(options, entries, Path(folder))
        files = (options.annotations, options.ids, options.captions, options.entities, options.images, options.precomp)
        source = [path.name for path in files if path]
        meta = {"annotations": source, "split": options.split, "image_naming": options.image_naming}
        meta |= {"word_ids": "precaps"} if options.precaps else {}
        if any(entry.file for entry in entries):
            meta[FILES] = files_of(entries, options.image_naming)
        packed, images, empty = pack(entries, words, options.output, options.image_naming, meta, options.workers)
    print(f"{pluralise(packed, 'caption')} of {pluralise(images, 'image')} in {options.output}, {len(empty)} left out")
    return 0


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that do not go together."""
    for flag, needed, why in NEEDED:
        if getattr(options, flag) and not getattr(options, needed):
            raise ConfigError(f"--{flag} needs --{needed}, {why}")
    for flag in PIECES[1:]:  # the words of a list are in lower case anyway
        if getattr(options, flag) and not (options.vocab or options.make_vocab):
            raise ConfigError(f"--{flag} is for WordPieces; give --vocab or --make_vocab, or leave it out")
    if options.punkt and not (options.words or options.make_words):
        raise ConfigError("--punkt is for whole words; give --words or --make_words, or leave it out")
    if sum(getattr(options, name) is not None for name in ("vocab", "make_vocab", "words", "make_words")) != 1:
        raise ConfigError(
            "give either --vocab FILE or --make_vocab SIZE (WordPieces), or --words FILE or --make_words [MIN_COUNT]"
        )


def check_entries(entries: Sequence[Entry], options: argparse.Namespace) -> None:
    """Raise DataError where there is no caption, or phrases do not fit theirs: before anything is written."""
    source = options.annotations or options.captions or options.entities or options.precomp
    if not any(entry.captions for entry in entries):
        raise DataError(f"there is no caption to pack in {source}; check it and --split")
    faults = Faults(source)
    for name, entry in name_images(entries, options.image_naming):
        for caption in entry.captions:
            try:
                phrases, size = caption.fields.get("phrases", ()), caption.fields.get("image_size")
                check_phrases(phrases, size, len(caption.text.split()), f"caption {caption.id} of {name}")
            except DataError as error:
                faults.add(str(error))
    faults.refuse()


def read(options: argparse.Namespace, splits: Sequence[str] | None = None) -> list[Entry]:
    """The entries of whichever kind of source the flags name, of `splits` or else of `--split`."""
    splits = splits or options.split
    given = [name for name in ("annotations", "ids", "captions", "entities", "precomp") if getattr(options, name)]
    if given == ["annotations"]:
        return select(read_captions(options.annotations), splits)
    if given == ["ids", "captions"]:
        return select(read_caption_files(options.ids, options.captions, options.id_names), splits)
    if given == ["entities"]:
        return select(read_entities(options.entities, options.images), splits)
    if given == ["precomp"]:
        precaps = Vocabulary.load(options.words) if options.precaps else None
        found = splits_of(options.precomp, splits or (), options)
        return [entry for split in found for entry in split.entries(precaps)]
    raise ConfigError(
        "give either --annotations FILE, or both --ids FILE and --captions FILE, or --entities FOLDER, or "
        "--precomp FOLDER"
    )


def tokenizer(options: argparse.Namespace, entries: list[Entry], folder: Path) -> Tokenizer:
    """The tokenizer with the given vocabulary, or with one made of the captions and written into `folder`."""
    how = {flag: getattr(options, flag) for flag in PIECES}
    if options.vocab or options.words:
        if options.words:
            return WordList(options.words, options.punkt)
        return WordPiece(options.vocab, **how)
    others = read(options, options.words_splits) if options.words_splits else entries
    texts = (caption.text for entry in others for caption in entry.captions)
    if options.make_words is not None:
        Vocabulary.of_words(map(CaptionWords(options.punkt), texts), options.make_words).save(folder / "vocab.json")
        return WordList(folder / "vocab.json", options.punkt)
    path = folder / "vocab.txt"
    path.write_text("\n".join(make_vocabulary(texts, options.make_vocab, options.lower_case)) + "\n", "utf-8")
    return WordPiece(path, **how)


def pack(
    entries: Sequence[Entry],
    words: Tokenizer,
    output: Path,
    naming: str,
    meta: dict[str, Any],
    workers: int = 1,
) -> tuple[int, int, list[str]]:
    """Write the store; returns the numbers of captions and images in it, and the ids left out for want of words."""
    named = name_images(entries, naming)
    images, empty = set[str](), list[str]()
    with TextWriter(output, {**meta, **words.meta}) as writer:
        words.keep_in(writer.partial)
        parts = in_order(partial(records, words), batches(named, BATCH), workers)
        for part in progress(parts, -(-len(named) // BATCH), " batches"):
            for caption, record in part:
                if record["input_ids"]:
                    writer.add(caption, record)
                    images.add(record["img_fname"])
                    continue
                empty.append(caption)
                print(f"caption {caption} of {record['img_fname']} has no word, left out", file=sys.stderr)
        if not len(writer):
            raise DataError("there is no caption with a word to pack; see the messages above")
    return len(writer), len(images), empty


def records(words: Tokenizer, named: list[tuple[str, Entry]]) -> list[tuple[str, dict[str, Any]]]:
    """Ids and records of all captions of some images."""
    return [
        (caption.id, caption_record(words, caption.text, name, fields(entry, caption)))
        for name, entry in named
        for caption in entry.captions
    ]


def fields(entry: Entry, caption: Caption) -> dict[str, Any]:
    """What the source says of a caption, with the number of its image where the source gives no id."""
    number = entry.image if entry.number is None else entry.number
    return {**caption.fields, "image_id": caption.fields.get("image_id", number)}


if __name__ == "__main__":
    run(main)
