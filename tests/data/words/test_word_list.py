"""Captions become the words that precomputed data is made of."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import nltk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DataError
from data.stores.text_store import TextStore, TextWriter, caption_record
from data.words.vocabulary import SPECIAL_WORDS, Vocabulary
from data.words.word_list import PUNKT_FILES, CaptionWords, WordList
from data.words.wordpiece import Special

WORDS = (*SPECIAL_WORDS, "a", "dog", "runs", ".", "``", "''", "ca", "n't")
TABLES = ("mr\nst", "the\tend", "dog\t4\ncat\t2", "then")


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    Vocabulary(WORDS).save(tmp_path / "f30k_vocab.json")
    return tmp_path / "f30k_vocab.json"


@pytest.fixture
def punkt(tmp_path: Path) -> Path:
    """A trained model that knows two abbreviations."""
    folder = tmp_path / "punkt"
    folder.mkdir()
    for name, content in zip(PUNKT_FILES, TABLES, strict=True):
        (folder / name).write_text(content + "\n")
    return folder


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog runs.", ["a", "dog", "runs", "."]),
        ("A dog . It can't run", ["a", "dog", ".", "it", "ca", "n't", "run"]),
        ('A "stop" sign', ["a", "``", "stop", "''", "sign"]),
        ("t-shirt, jeans", ["t-shirt", ",", "jeans"]),
        ("dogs run. cats sit.", ["dogs", "run", ".", "cats", "sit", "."]),
        ("Mr. Smith", ["mr", ".", "smith"]),
        ("ÄRGER im CAFÉ", ["ärger", "im", "café"]),
        ("it’s 5 p.m.", ["it", "’", "s", "5", "p.m", "."]),
        ("  \t ", []),
    ],
)
def test_words_of_captions(caption: str, words: list[str]) -> None:
    assert CaptionWords()(caption) == words


def test_a_caption_is_text_and_never_a_printed_byte_string(vocab: Path) -> None:
    """What Python 3 makes of bytes put through str(): the best known way to lose recalls in this data."""
    text = "A dog runs ."
    words, ids = WordList(vocab).encode(text)
    assert (words, ids) == (["a", "dog", "runs", "."], [4, 5, 6, 7])
    assert not words[0].startswith("b'")
    assert words != CaptionWords()(str(text.encode()))


def test_a_trained_model_knows_abbreviations(punkt: Path) -> None:
    assert CaptionWords(punkt)("Mr. Smith runs. He wins.") == ["mr.", "smith", "runs", ".", "he", "wins", "."]


def test_the_store_notes_how_sentences_were_found(vocab: Path, punkt: Path) -> None:
    untrained, trained = WordList(vocab).meta, WordList(vocab, punkt).meta
    assert untrained["tokenizer"] == trained["tokenizer"] == f"nltk {nltk.__version__}"
    assert untrained["sentences"] == "punkt, untrained"
    assert trained["sentences"].startswith("punkt, trained, ")
    (punkt / "abbrev_types.txt").write_text("mr\n")
    assert WordList(vocab, punkt).meta["sentences"] != trained["sentences"]


@pytest.mark.parametrize("name", PUNKT_FILES)
def test_an_incomplete_model_is_refused(punkt: Path, name: str) -> None:
    (punkt / name).unlink()
    with pytest.raises(DataError, match=rf"{name} cannot be read .*give the folder of a trained Punkt model"):
        CaptionWords(punkt)


@pytest.mark.parametrize("name", ["abbrev_types.txt", "ortho_context.tab"])
def test_a_model_that_knows_nothing_is_not_trained(punkt: Path, name: str) -> None:
    (punkt / name).write_text("\n")
    with pytest.raises(DataError, match="knows no abbreviation or no context, so it is not trained; give the folder"):
        CaptionWords(punkt)


def test_line_ends_and_marks_of_other_editors_are_no_part_of_a_model(punkt: Path) -> None:
    before = CaptionWords(punkt)("Mr. Smith runs.")
    for name in PUNKT_FILES:
        content = (punkt / name).read_text()
        (punkt / name).write_text(content, encoding="utf-8-sig", newline="\r\n")
    assert CaptionWords(punkt)("Mr. Smith runs.") == before == ["mr.", "smith", "runs", "."]


@pytest.mark.parametrize(("name", "content"), [("ortho_context.tab", "dog\tmany"), ("collocations.tab", "one")])
def test_another_file_is_no_model(punkt: Path, name: str, content: str) -> None:
    (punkt / name).write_text(content)
    with pytest.raises(DataError, match="is not a trained Punkt model"):
        CaptionWords(punkt)


def test_describes_itself(vocab: Path) -> None:
    words = WordList(vocab)
    assert words.special == Special(1, 2, None, (4, 12))
    assert words.special.size == 12
    assert words.vocab_hash == Vocabulary(WORDS).hash
    expected = {"vocab_size": 12, "PAD": 0, "CLS": 1, "SEP": 2, "UNK": 3, "MASK": None, "vocab_file": vocab.name}
    assert expected.items() <= words.meta.items()


def test_unknown_words_have_one_id_and_nothing_is_cut(vocab: Path) -> None:
    words, ids = WordList(vocab).encode("A zebra runs " * 100)
    assert ids == [4, 3, 6] * 100
    assert words == ["a", "zebra", "runs"] * 100


def test_survives_pickling(vocab: Path, punkt: Path) -> None:
    for words in (WordList(vocab), WordList(vocab, punkt)):
        again = pickle.loads(pickle.dumps(words))
        assert again.encode("Mr. Dog runs") == words.encode("Mr. Dog runs")
        assert again.meta == words.meta


def test_text_stores_take_it(vocab: Path, tmp_path: Path) -> None:
    words = WordList(vocab)
    with TextWriter(tmp_path / "toy.db", words.meta) as writer:
        words.keep_in(writer.partial)
        writer.add("0", caption_record(words, 'A "dog" runs.', "a.npz", {"raw": 'A "dog" runs.'}))
    store = TextStore(tmp_path / "toy.db")
    assert store.special == words.special
    assert store.vocab_hash == words.vocab_hash
    assert store.tokens("0").tolist() == [4, 8, 5, 9, 6, 7]
    assert store.record("0")["toked_caption"] == ["a", "``", "dog", "''", "runs", "."]
    assert WordList(store.folder / "vocab.json").vocab_hash == words.vocab_hash


def test_captions_that_come_with_ids_keep_them(vocab: Path) -> None:
    fields = {"raw": "A dog", "toked_caption": ["dog"], "input_ids": [5]}
    assert caption_record(WordList(vocab), "A dog", "a.npz", fields) == {**fields, "img_fname": "a.npz"}


@pytest.mark.parametrize(
    ("caption", "offsets"),
    [
        ("A dog. It can't", [0, 1, 3, 4, 6]),
        ('A "stop" sign', [0, 1, 4, 5]),
        ("  dog  dog ", [0, 1, 2]),
        ("", [0]),
        ("he said ``no''.", [0, 1, 2, 6]),
    ],
)
def test_words_of_each_stretch_are_found(vocab: Path, caption: str, offsets: list[int]) -> None:
    assert WordList(vocab).word_offsets(caption) == offsets


@given(st.lists(st.sampled_from(["a", "can't", '"dog"', "Mr.", "runs.", ",", "t-shirt", "(big)", "cannot", "5%"])))
def test_offsets_cover_what_encode_returns(stretches: list[str]) -> None:
    tokenizer, caption = CaptionWords(), " ".join(stretches)
    words = WordList.__new__(WordList)
    words.tokenizer = tokenizer
    offsets = words.word_offsets(caption)
    assert len(offsets) == len(stretches) + 1
    assert offsets == sorted(offsets)
    assert offsets[-1] == len(tokenizer(caption))
    assert all(first < second for first, second in pairwise(offsets))


def test_phrases_become_objects(vocab: Path) -> None:
    phrases = [{"start": 1, "end": 2, "boxes": [[0, 0, 5, 5]]}]
    fields = {"phrases": phrases, "image_size": [10, 10]}
    record = caption_record(WordList(vocab), 'A "dog" runs.', "a.npz", fields)
    assert record["objects"] == [{"words": [1, 2, 3], "boxes": [[0, 0, 0.5, 0.5]]}]
