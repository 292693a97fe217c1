"""Word vocabularies: both file formats, what is wrong with a file, and new ones that are the same each time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError, DataError
from data.words.vocabulary import SPECIAL_WORDS, Vocabulary

WORDS = (*SPECIAL_WORDS, "a", "dog", "``", "café")


def tables(words: tuple[str, ...] = WORDS, **change: Any) -> dict[str, Any]:
    ids = {word: id for id, word in enumerate(words)}
    return {"word2idx": ids, "idx2word": {str(id): word for word, id in ids.items()}, "idx": len(ids), **change}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def pickled(path: Path, words: tuple[str, ...] = WORDS, idx: int | None = None) -> Path:
    """As Python 2 writes it: protocol 2, byte strings."""
    def string(text: str) -> bytes:
        return b"U" + bytes([len(text.encode())]) + text.encode()

    def number(value: int) -> bytes:
        return b"K" + bytes([value])

    ids = b"".join(string(word) + number(id) for id, word in enumerate(words))
    names = b"".join(number(id) + string(word) for id, word in enumerate(words))
    count = number(len(words) if idx is None else idx)
    path.write_bytes(
        b"\x80\x02cvocab\nVocabulary\n)\x81}(" + string("word2idx") + b"}(" + ids + b"u"
        + string("idx2word") + b"}(" + names + b"u" + string("idx") + count + b"ub."
    )  # fmt: skip
    return path


def test_both_formats_are_the_same_vocabulary(tmp_path: Path) -> None:
    plain, old = Vocabulary.load(write(tmp_path / "v.json", tables())), Vocabulary.load(pickled(tmp_path / "v.pkl"))
    assert plain == old
    assert plain.words == WORDS
    assert plain.hash == old.hash
    assert len(plain) == 8


def test_words_are_looked_up_as_they_are_written() -> None:
    assert Vocabulary(WORDS).encode(["dog", "Dog", "café", "<start>", "``", '"']) == [5, 3, 7, 1, 6, 3]


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    Vocabulary(WORDS).save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == Vocabulary(WORDS)
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == tables()


def test_another_order_is_another_vocabulary() -> None:
    assert Vocabulary(WORDS).hash != Vocabulary((*SPECIAL_WORDS, *reversed(WORDS[4:]))).hash
    assert Vocabulary((*SPECIAL_WORDS, "ab", "c")).hash != Vocabulary((*SPECIAL_WORDS, "a", "bc")).hash


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "has no table word2idx"),
        ({"word2idx": 3}, "has no table word2idx"),
        ({"words": {}}, "has no table word2idx"),
        (tables(word2idx={"a": "1"}), "not a table from words to whole numbers"),
        (tables(word2idx={"a": True}), "not a table from words to whole numbers"),
        (tables(word2idx={word: 2 * id for id, word in enumerate(WORDS)}), "ids of its 8 words are not 0 to 7"),
        (tables(word2idx={word: id // 2 for id, word in enumerate(WORDS)}), "ids of its 8 words are not 0 to 7"),
        (tables(("a", "dog")), "first words are not <pad>, <start>, <end>, <unk>"),
        (tables(("<pad>", "<unk>", "<start>", "<end>", "a")), "first words are not <pad>"),
        (tables(()), "first words are not <pad>"),
        (tables(idx2word={"0": "<pad>"}), "idx2word is not word2idx the other way round"),
        (tables(idx2word=list(WORDS)), "idx2word is not word2idx the other way round"),
        (tables(idx=9), "idx is not 8, the number of its words"),
        (tables(idx="8"), "idx is not 8, the number of its words"),
        (tables((*SPECIAL_WORDS, "\ud800")), "not a table from words to whole numbers"),
    ],
)
def test_tables_that_are_no_vocabulary_are_refused(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(DataError, match=told) as error:
        Vocabulary.load(write(tmp_path / "v.json", content))
    assert str(tmp_path / "v.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_tables_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="first words are not"):
        Vocabulary.load(pickled(tmp_path / "v.pkl", ("a", "dog")))
    with pytest.raises(DataError, match="idx is not 8"):
        Vocabulary.load(pickled(tmp_path / "v.pkl", idx=9))


def test_malicious_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.pkl").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    with pytest.raises(DataError, match=r"v\.pkl asks for os\.system"):
        Vocabulary.load(tmp_path / "v.pkl")
    assert not Path("harmed").exists()


SCRIPT = """
import json, pickle, sys

class Vocabulary(object):
    def __init__(self, tables):
        self.word2idx = tables["word2idx"]
        self.idx2word = {int(id): word for id, word in tables["idx2word"].items()}
        self.idx = tables["idx"]

with open(sys.argv[2], "wb") as file:
    pickle.dump(Vocabulary(json.loads(sys.argv[1])), file, int(sys.argv[3]))
"""


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_what_a_script_pickles_as_its_own_class_is_read(tmp_path: Path, protocol: int) -> None:
    """As published: the class is `__main__.Vocabulary`, which this process has not."""
    path = tmp_path / "v.pkl"
    subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(tables()), path, str(protocol)], check=True)
    assert b"__main__" in path.read_bytes()
    assert Vocabulary.load(path).words == WORDS


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json cannot be read"):
        Vocabulary.load(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match=r"nowhere\.pkl cannot be read"):
        Vocabulary.load(tmp_path / "nowhere.pkl")
    with pytest.raises(DataError, match=r"vocab\.txt ends in neither \.json nor \.pkl"):
        Vocabulary.load(tmp_path / "vocab.txt")


def test_new_vocabularies_are_ordered_by_count_then_word() -> None:
    captions = [["b", "a", "c"], ["b", "a", "ä"], ["b", "d", "ä"], ["<unk>", "<unk>"]]
    expected = Vocabulary((*SPECIAL_WORDS, "b", "a", "ä"))
    for seed in range(5):
        random.Random(seed).shuffle(captions)
        assert Vocabulary.of_words(captions, 2) == expected
    assert Vocabulary.of_words(captions, 1).words[-2:] == ("c", "d")


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot have to occur 0 times"):
        Vocabulary.of_words([["a"]], 0)
    with pytest.raises(ConfigError, match="no word of these captions occurs 2 times"):
        Vocabulary.of_words([["a"]], 2)
