"""Text stores: tokenised captions by id, the image of each, and the vocabulary of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from config.paths import Kind, describe_mismatch, inspect_path
from data.files import write_json
from data.records.codec import DamagedRecord, decode_text, encode_text
from data.records.phrases import pack_objects
from data.stores.lmdb_store import LmdbStore, missing
from data.stores.lmdb_writer import LmdbWriter
from data.stores.text_files import is_id, listed_images, read_side_files
from data.words.wordpiece import Tokenizer

VERSION = 1
REQUIRED = ("input_ids", "img_fname")


class TextStore:
    """The captions of one split (a `*.db` folder), in the order of its `id2len.json`.

    The side files are read when the store is made, the records when they are asked for; it may be pickled and
    forked.

    Attributes:
        ids: caption ids.
        lengths: [texts] word ids of each, without [CLS] and [SEP] (a word list's <start> and <end>).
        images: the image name of each.
        image_order: all image names, in the order of `img2txts.json`.
        special: ids of the special tokens; `mask` is None where the vocabulary is a word list.
        meta: the packing options.
        vocab_hash: sha256 of the vocabulary file; None in stores of the published packers.

    Raises:
        DataError: a side file is missing or not JSON, the files disagree, or a caption has no word.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if inspect_path(self.folder).kind is not Kind.TEXTS:
            what = describe_mismatch(self.folder, Kind.TEXTS, "check txt_db or pack it")
            raise DataError(f"there is no text store {self.folder}: {what}")
        beside = read_side_files(self.folder)
        self.meta: dict[str, Any] = beside.meta
        self.special = beside.special
        self.vocab_hash: str | None = self.meta.get("vocab_hash")
        self.ids = list(beside.lengths)
        self.lengths = np.fromiter(beside.lengths.values(), np.int64, len(self.ids))
        self.images, self.image_order = beside.images, beside.image_order
        self._store = LmdbStore(self.folder)
        self._tokens: dict[str, NDArray[np.int32]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return TextStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _length_of(self) -> dict[str, int]:
        return dict(zip(self.ids, self.lengths.tolist(), strict=True))

    @cached_property
    def _image_of(self) -> dict[str, str]:
        return dict(zip(self.ids, self.images, strict=True))

    def record(self, id: str) -> dict[str, Any]:
        """The caption's whole record, unknown fields included.

        Raises:
            DataError: no such caption; DamagedRecord: its bytes are not what was written.
        """
        try:
            record = decode_text(self._store.get(id))
            absent = [name for name in REQUIRED if name not in record]
            if absent:
                raise DamagedRecord(f"lacks {', '.join(absent)}")
        except DamagedRecord as error:
            raise DamagedRecord(f"{self.folder}: caption {id} is damaged ({error})") from error
        return record

    def tokens(self, id: str) -> NDArray[np.int32]:
        """WordPiece ids [length] without [CLS] and [SEP]; decoded once in each process, not to be changed."""
        tokens = self._tokens.get(id)
        if tokens is None:
            expected = self._length_of.get(id)
            if expected is None:
                raise missing(self.folder, id, self.ids)
            tokens = np.array(self._ids_of(id, self.record(id)), dtype=np.int32)
            if len(tokens) != expected:
                raise DamagedRecord(f"{self.folder}: caption {id} has {len(tokens)} ids, id2len.json says {expected}")
            tokens.flags.writeable = False
            self._tokens[id] = tokens
        return tokens

    def _ids_of(self, id: str, record: Mapping[str, Any]) -> list[int]:
        """The word ids of a caption's record; raises DamagedRecord where they are something else."""
        ids = record["input_ids"]
        if not (isinstance(ids, list) and all(map(is_id, ids))):
            raise DamagedRecord(f"{self.folder}: caption {id} has input_ids that are no list of word ids ({ids!r:.40})")
        return ids

    def damaged(self, ids: Iterable[str]) -> list[tuple[str, str]]:
        """Read the named records; (id, reason) of those that cannot be used, or that the side files contradict."""
        found = []
        listed = listed_images(self.folder)
        for id in ids:
            try:
                record, image = self.record(id), self._image_of[id]
                words, known = self._ids_of(id, record), self.special.size
                if len(words) != self._length_of[id]:
                    found.append((id, f"{len(words)} ids, id2len.json: {self._length_of[id]}"))
                if max(words, default=0) >= known:
                    found.append((id, f"has the word id {max(words)}, but the vocabulary 0 to {known - 1}"))
                if record["img_fname"] != image:
                    found.append((id, f"belongs to {record['img_fname']}, txt2img.json says {image}"))
                if (under := listed.get(id, set())) != {image}:
                    where = " and ".join(sorted(under)) or "no image"
                    found.append((id, f"belongs to {image}, img2txts.json lists it under {where}"))
            except DataError as error:
                found.append((id, str(error)))
        return found

    def open(self) -> None:
        """Look whether the records can be had, before the first is asked for; processes forked later need not look.

        Raises:
            DataError: they are missing, cut short, or others than were packed.
        """
        len(self._store)

    def close(self) -> None:
        """Let go of the store's environment."""
        self._store.close()


def caption_record(words: Tokenizer, text: str, image: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a caption: its given fields, then `toked_caption`, `input_ids` and `img_fname`.

    Fields that hold `input_ids` already keep them: they were published with the caption.
    Where the fields hold `phrases` (and `image_size`), `objects` follow: see `data.records.phrases`.

    Raises:
        DataError: a phrase does not fit the caption, or its boxes the picture.
    """
    if "input_ids" in fields:
        return {**fields, "img_fname": image}
    pieces, ids = words.encode(text)
    record = {**fields, "toked_caption": pieces, "input_ids": ids, "img_fname": image}
    if "phrases" in fields:
        where = f"caption {fields.get('sentid', repr(text))} of {image}"
        offsets = words.word_offsets(text)
        record["objects"] = pack_objects(fields["phrases"], fields.get("image_size"), offsets, where)
    return record


class TextWriter:
    """Packs a text store; `folder` is complete after a clean exit, and absent before.

    Captions are cheap to tokenise, so a packing that was killed starts from the beginning.

    Args:
        meta: packing options and the tokenizer's `meta` (UNK, CLS, SEP, MASK, v_range, ...); MASK is None where
            there is none.

    Raises:
        DataError: the folder exists already, or another process is packing it.
    """

    def __init__(self, folder: str | Path, meta: Mapping[str, Any]) -> None:
        self._writer = LmdbWriter(folder, fresh=True)
        self._meta = dict(meta)
        self._lengths: dict[str, int] = {}
        self._owner: dict[str, str] = {}
        self._texts: dict[str, list[str]] = {}

    @property
    def partial(self) -> Path:
        """The folder that becomes the store; files that belong to the store may be put into it."""
        return self._writer.partial

    def add(self, id: str, record: Mapping[str, Any]) -> None:
        """Store a caption's record; `input_ids` and `img_fname` are required, all of it is kept.

        Raises:
            DataError: no word, an id that is taken, a missing field, or one that is no text; names the caption.
        """
        absent = [name for name in REQUIRED if name not in record]
        if absent:
            raise DataError(f"caption {id} lacks {', '.join(absent)}")
        if id in self._lengths:
            raise DataError(f"caption id {id} occurs twice; ids must be unique within a store")
        if not record["input_ids"]:
            raise DataError(f"caption {id} of {record['img_fname']} has no word; leave it out")
        if not (isinstance(record["input_ids"], list) and all(map(is_id, record["input_ids"]))):
            raise DataError(f"caption {id} has input_ids that are no list of word ids; tokenise it again")
        if not isinstance(record["img_fname"], str) or not record["img_fname"]:
            raise DataError(f"caption {id} has {record['img_fname']!r} as img_fname, not the name of an image")
        try:
            content = encode_text(record)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"caption {id} cannot be stored ({error}); mend or leave out what is no text") from error
        self._writer.put(id, content)
        self._lengths[id] = len(record["input_ids"])
        self._owner[id] = record["img_fname"]
        self._texts.setdefault(record["img_fname"], []).append(id)

    def __len__(self) -> int:
        return len(self._lengths)

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._writer.release()
            return
        with self._writer.finishing():
            write_json(self.partial / "id2len.json", self._lengths)
            write_json(self.partial / "txt2img.json", self._owner)
            write_json(self.partial / "img2txts.json", self._texts)
            described = {"kind": "texts", "count": len(self._lengths), "codec": "lz4+msgpack", "version": VERSION}
            write_json(self.partial / "meta.json", {**described, **self._meta})
