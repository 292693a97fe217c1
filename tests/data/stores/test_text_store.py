"""Text stores: order, owners, tokens, and errors that name the caption."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np
import pytest

from config.errors import DataError
from data.records.codec import DamagedRecord
from data.stores.text_store import TextStore, TextWriter, caption_record
from data.words.wordpiece import SPECIAL_TOKENS, Special, WordPiece

META = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 50], "vocab_hash": "abc"}
RECORDS = {
    "7": {"input_ids": [10, 11, 12], "img_fname": "b.npz", "raw": "x y z", "odd": {"kept": [1]}},
    "3": {"input_ids": [10], "img_fname": "a.npz"},
    "12": {"input_ids": [13, 14], "img_fname": "b.npz"},
}


def write(folder: Path, records: dict[str, dict[str, Any]] = RECORDS, meta: dict[str, Any] = META) -> Path:
    with TextWriter(folder, meta) as writer:
        for id, record in records.items():
            writer.add(id, record)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "itm_toy.db")


def edit(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (path.parent / "seal.json").unlink(missing_ok=True)


def test_order_owners_and_lengths(folder: Path) -> None:
    store = TextStore(folder)
    assert store.ids == ["7", "3", "12"]
    assert store.lengths.tolist() == [3, 1, 2]
    assert store.images == ["b.npz", "a.npz", "b.npz"]
    assert store.image_order == ["b.npz", "a.npz"]
    assert store.special == Special(2, 3, 4, (5, 50))
    assert store.vocab_hash == "abc"
    assert len(store) == 3


def test_a_word_list_says_that_it_has_no_mask(tmp_path: Path) -> None:
    store = TextStore(write(tmp_path / "toy.db", meta={**META, "MASK": None}))
    assert store.special == Special(2, 3, None, (5, 50))
    assert store.special.size == 50


def test_tokens_are_decoded_once_and_protected(folder: Path) -> None:
    store = TextStore(folder)
    tokens = store.tokens("7")
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [10, 11, 12]
    assert store.tokens("7") is tokens
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_records_keep_unknown_fields(folder: Path) -> None:
    assert TextStore(folder).record("7") == RECORDS["7"]


def test_files_are_the_published_ones(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "data.mdb", "id2len.json", "img2txts.json", "meta.json", "seal.json", "txt2img.json",
    ]  # fmt: skip
    assert json.loads((folder / "img2txts.json").read_text()) == {"b.npz": ["7", "12"], "a.npz": ["3"]}
    assert json.loads((folder / "txt2img.json").read_text()) == {"7": "b.npz", "3": "a.npz", "12": "b.npz"}
    meta = json.loads((folder / "meta.json").read_text())
    assert META.items() <= meta.items()
    assert (meta["kind"], meta["count"]) == ("texts", 3)
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as reader:
        stored = {key.decode(): msgpack.unpackb(lz4.frame.decompress(value)) for key, value in reader.cursor()}
    assert stored == RECORDS


def test_missing_caption_names_store_and_near_ids(folder: Path) -> None:
    for ask in (TextStore(folder).tokens, TextStore(folder).record):
        with pytest.raises(DataError, match=r"itm_toy\.db holds no '13'; near: 3, 12, 7"):
            ask("13")


def test_captions_without_words_are_refused_when_the_store_is_opened(folder: Path) -> None:
    edit(folder / "id2len.json", {"3": 0})
    with pytest.raises(DataError, match=r"itm_toy\.db: 1 caption without a word \(3\)"):
        TextStore(folder)


def test_lengths_that_are_wrong_are_found(folder: Path) -> None:
    edit(folder / "id2len.json", {"7": 4})
    with pytest.raises(DamagedRecord, match=r"caption 7 has 3 ids, id2len\.json says 4"):
        TextStore(folder).tokens("7")


def test_side_files_that_disagree_are_named(folder: Path) -> None:
    edit(folder / "id2len.json", {"99": 2})
    with pytest.raises(DataError, match=r"txt2img\.json has no caption 99"):
        TextStore(folder)
    edit(folder / "txt2img.json", {"99": "c.npz"})
    with pytest.raises(DataError, match=r"img2txts\.json lacks c\.npz"):
        TextStore(folder)


@pytest.mark.parametrize("name", ["meta.json", "id2len.json", "txt2img.json", "img2txts.json"])
def test_missing_side_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        TextStore(folder)


def test_missing_folder_and_special_ids_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text store"):
        TextStore(tmp_path / "nowhere.db")
    write(tmp_path / "toy.db", meta={"CLS": 2, "SEP": 3, "v_range": [1, 2]})
    with pytest.raises(DataError, match=r"meta\.json lacks 'MASK'"):
        TextStore(tmp_path / "toy.db")


def test_damaged_records_are_listed_and_named(folder: Path) -> None:
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as writer:
        writer.put(b"3", b"damaged")
        writer.put(b"12", lz4.frame.compress(msgpack.packb({"input_ids": [13, 14], "img_fname": "a.npz"})))
    (folder / "seal.json").unlink()
    store = TextStore(folder)
    assert [id for id, _ in store.damaged(store.ids)] == ["3", "12"]
    assert "txt2img.json says b.npz" in store.damaged(["12"])[0][1]
    with pytest.raises(DamagedRecord, match=r"itm_toy\.db: caption 3 is damaged"):
        store.tokens("3")


@pytest.mark.parametrize("ids", [None, "ab", ["a"], [2.5], [-1], [[1]], [True], [1 << 40], 3])
def test_word_ids_that_are_none_are_told(ids: Any, folder: Path) -> None:
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as writer:
        writer.put(b"3", lz4.frame.compress(msgpack.packb({"input_ids": ids, "img_fname": "a.npz"})))
    (folder / "seal.json").unlink()
    store = TextStore(folder)
    with pytest.raises(DamagedRecord, match=r"itm_toy\.db: caption 3 has input_ids that are no list of word ids"):
        store.tokens("3")
    assert "no list of word ids" in store.damaged(["3"])[0][1]


def test_ids_behind_the_vocabulary_and_lists_that_disagree_are_found(folder: Path) -> None:
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as writer:
        writer.put(b"3", lz4.frame.compress(msgpack.packb({"input_ids": [50], "img_fname": "a.npz"})))
    edit(folder / "img2txts.json", {"a.npz": ["3", "12"], "b.npz": ["12"]})
    found = TextStore(folder).damaged(["7", "3", "12"])
    assert found == [
        ("7", "belongs to b.npz, img2txts.json lists it under no image"),
        ("3", "has the word id 50, but the vocabulary 0 to 49"),
        ("12", "belongs to b.npz, img2txts.json lists it under a.npz and b.npz"),
    ]


def test_survives_forks_and_pickling(folder: Path) -> None:
    store = TextStore(folder)
    store.tokens("7")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.tokens("12").tolist() == [13, 14] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pickle.loads(pickle.dumps(store)).tokens("12").tolist() == [13, 14]


@pytest.mark.parametrize(
    ("id", "record", "message"),
    [
        ("7", {"input_ids": [1], "img_fname": "a.npz"}, "id 7 occurs twice"),
        ("8", {"input_ids": [], "img_fname": "a.npz"}, r"caption 8 of a\.npz has no word"),
        ("8", {"input_ids": [1]}, "caption 8 lacks img_fname"),
        ("8", {"input_ids": [1.5], "img_fname": "a.npz"}, "caption 8 has input_ids that are no list of word ids"),
        ("8", {"input_ids": "x", "img_fname": "a.npz"}, "caption 8 has input_ids that are no list of word ids"),
        ("8", {"input_ids": [1], "img_fname": 8}, "caption 8 has 8 as img_fname, not the name of an image"),
        ("8", {"input_ids": [1], "img_fname": "a.npz", "raw": "\ud800"}, "caption 8 cannot be stored .*surrogates"),
        ("8", {"input_ids": [1], "img_fname": "a.npz", "odd": {1, 2}}, "caption 8 cannot be stored"),
        ("\ud800", {"input_ids": [1], "img_fname": "a.npz"}, "cannot be a name, it is no UTF-8"),
    ],
)
def test_records_that_cannot_be_stored_are_named(tmp_path: Path, id: str, record: Any, message: str) -> None:
    with TextWriter(tmp_path / "toy.db", META) as writer:
        writer.add("7", RECORDS["7"])
        with pytest.raises(DataError, match=message):
            writer.add(id, record)
    assert TextStore(tmp_path / "toy.db").ids == ["7"]


def test_a_failed_packing_leaves_no_store_and_starts_afresh(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write(tmp_path / "toy.db", {"1": RECORDS["3"], "2": None})  # type: ignore[dict-item]
    assert not (tmp_path / "toy.db").exists()
    write(tmp_path / "toy.db")
    assert TextStore(tmp_path / "toy.db").ids == ["7", "3", "12"]


def test_caption_records_have_the_published_fields(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "A", "dog", "."]))
    record = caption_record(WordPiece(tmp_path / "vocab.txt"), "A dog.", "a.npz", {"sentid": 4, "raw": "A dog."})
    assert record == {
        "sentid": 4, "raw": "A dog.", "toked_caption": ["A", "dog", "@@."], "input_ids": [5, 6, 7],
        "img_fname": "a.npz",
    }  # fmt: skip


def test_records_of_annotated_captions_have_objects(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "A", "dog", "."]))
    words = WordPiece(tmp_path / "vocab.txt")
    phrases = [{"start": 0, "end": 2, "boxes": [[5, 0, 10, 5]]}]
    fields = {"sentid": 4, "phrases": phrases, "image_size": [10, 20]}
    record = caption_record(words, "A dog. A", "a.npz", fields)
    assert record["objects"] == [{"words": [0, 1, 2], "boxes": [[0.5, 0, 1, 0.25]]}]
    assert fields.items() <= record.items()
    assert caption_record(words, "A dog.", "a.npz", {"phrases": []})["objects"] == []
    with pytest.raises(DataError, match=r"caption 4 of a\.npz, phrase 0: words 0 to 2 of a caption of 1 words"):
        caption_record(words, "A", "a.npz", fields)
    with pytest.raises(DataError, match=r"caption 'A' of a\.npz, phrase 0"):
        caption_record(words, "A", "a.npz", {"phrases": phrases, "image_size": [10, 20]})
