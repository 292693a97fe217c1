"""Words become the pieces that BERT's tokenizer makes of them, and vocabularies are learnt the same way each time."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigError, DataError
from data.words.wordpiece import SPECIAL_TOKENS, WordPiece, make_vocabulary

CAPTIONS = Path(__file__).parents[4] / "shared/data/captions"
PIECES = [
    *SPECIAL_TOKENS,
    "!",
    "a",
    "##a",
    "un",
    "##aff",
    "##able",
    "dog",
    "Dog",
    ".",
    ",",
    "-",
    "café",
    "cafe",
    "日",
    "'",
    "s",
]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("caption", "pieces"),
    [
        ("unaffable dog", ["un", "@@##aff", "@@##able", "dog"]),
        ("dog.", ["dog", "@@."]),
        ("dog .", ["dog", "."]),
        ("dog-dog, Dog's", ["dog", "@@-", "@@dog", "@@,", "Dog", "@@'", "@@s"]),
        ("  dog\t\n dog\u3000dog ", ["dog", "dog", "dog"]),
        ("dogs", ["[UNK]"]),
        ("日本", ["日", "@@[UNK]"]),
        ("dog日dog", ["dog", "@@日", "@@dog"]),
        ("do\u200bg d\x00og do\ufffdg", ["dog", "dog", "dog"]),
        ("dog \u200b \ufeff dog", ["dog", "dog"]),
        ("dog—dog", ["dog", "@@[UNK]", "@@dog"]),
        ("café", ["café"]),
        ("cafe\u0301", ["[UNK]"]),
        ("DOG", ["[UNK]"]),
        ("a" * 100, ["a", *["@@##a"] * 99]),
        ("a" * 101, ["[UNK]"]),
        ("", []),
        (" \u200b ", []),
        ("[MASK]", ["[UNK]", "@@[UNK]", "@@[UNK]"]),
    ],
)
def test_pieces_of_a_cased_vocabulary(vocab: Path, caption: str, pieces: list[str]) -> None:
    words = WordPiece(vocab)
    got, ids = words.encode(caption)
    assert got == pieces
    assert ids == [PIECES.index(piece.removeprefix("@@")) for piece in pieces]


@pytest.mark.parametrize(
    ("caption", "pieces"),
    [("Dog DOG", ["dog", "dog"]), ("Café cafe\u0301", ["cafe", "cafe"]), ("Á.", ["a", "@@."])],
)
def test_lower_case_also_strips_accents(vocab: Path, caption: str, pieces: list[str]) -> None:
    assert WordPiece(vocab, lower_case=True).encode(caption)[0] == pieces


@given(st.text())
def test_any_text_gives_pieces_of_the_vocabulary(caption: str) -> None:
    words = WordPiece.__new__(WordPiece)
    words.vocab, words.lower_case = {piece: at for at, piece in enumerate(PIECES)}, False
    for word in caption.split():
        pieces, ids = words._encode_word(word)
        assert [PIECES[id] for id in ids] == [piece.removeprefix("@@") for piece in pieces]


@pytest.mark.parametrize("caption", ["unaffable dog-dog, \u200b Dog's dog.", " \u200b ", "", "a\u2028b\x1cdog 日本"])
def test_offsets_say_which_pieces_are_of_which_word(vocab: Path, caption: str) -> None:
    words = WordPiece(vocab)
    pieces, ids = words.encode(caption)
    offsets = words.word_offsets(caption)
    assert len(offsets) == len(caption.split()) + 1
    for word, start, end in zip(caption.split(), offsets, offsets[1:], strict=False):
        assert (pieces[start:end], ids[start:end]) == words.encode(word)
    assert (offsets[0], offsets[-1]) == (0, len(ids))


# ---------------------------------------------------------------- captions cleaned first


def library_pieces(vocab: Path, caption: str, lower_case: bool) -> list[str]:
    """Pieces of the tokenizer in pure Python that `transformers` keeps."""
    from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer, WordpieceTokenizer

    pieces = WordpieceTokenizer(WordPiece(vocab).vocab, "[UNK]")
    tokens = BasicTokenizer(do_lower_case=lower_case).tokenize(caption)
    return [piece for token in tokens for piece in pieces.tokenize(token)]


def plain(words: WordPiece, caption: str) -> list[str]:
    return [PIECES[id] for id in words.encode(caption)[1]]


@pytest.mark.parametrize("lower_case", [False, True])
def test_a_caption_cleaned_first_has_the_librarys_pieces_whatever_its_characters(lower_case: bool, vocab: Path) -> None:
    """Inside a word and between two: every character that divides, vanishes or stands alone, and others of its kind."""
    words = WordPiece(vocab, lower_case, clean_first=True)
    of_kind: dict[str, list[str]] = {}
    for char in map(chr, range(sys.maxunicode + 1)):
        of_kind.setdefault(unicodedata.category(char), []).append(char)
    assert len(of_kind) == 30
    kinds = (chars if len(chars) < 70 else chars[:: len(chars) // 70] for chars in of_kind.values())
    for char in (char for chars in kinds for char in chars):
        for caption in (f"do{char}g", f"dog {char} dog.{char}a", f"e{char}\u0301"):
            assert plain(words, caption) == library_pieces(vocab, caption, lower_case), ascii(caption)


@given(st.text(st.sampled_from("doga Ée\u0301.-[]MASKΣ日\x0b\x1c\x85\u2028\u200b\ufffd\t\ue000")), st.booleans())
def test_any_caption_cleaned_first_has_the_librarys_pieces(caption: str, lower_case: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
        words = WordPiece(path, lower_case, clean_first=True)
        assert plain(words, caption) == library_pieces(path, caption, lower_case)


@pytest.mark.parametrize("divider", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85"])
def test_what_divides_words_only_before_they_are_clean(divider: str, vocab: Path) -> None:
    caption = f"do{divider}g dog"
    assert WordPiece(vocab).encode(caption)[0] == ["[UNK]", "[UNK]", "dog"]
    assert WordPiece(vocab, clean_first=True).encode(caption)[0] == ["dog", "dog"]


def test_phrases_need_the_words_of_the_caption_as_it_was_written(vocab: Path) -> None:
    words = WordPiece(vocab, clean_first=True)
    assert words.word_offsets("dog\x00dog dog. \u3000a") == [0, 1, 3, 4]
    for caption in ("dog\x1cdog", "dog \x00 dog"):
        with pytest.raises(DataError, match="has other words once it is clean; leave out its phrases"):
            words.word_offsets(caption)


def test_only_a_tokenizer_that_cleans_first_says_so(vocab: Path) -> None:
    assert WordPiece(vocab, clean_first=True).meta == WordPiece(vocab).meta | {"clean_first": True}
    assert "clean_first" not in WordPiece(vocab).meta
    again = pickle.loads(pickle.dumps(WordPiece(vocab, clean_first=True)))
    assert again.encode("do\x1cg")[0] == ["dog"]


MARKED = "[CLS] a dog [MASK] dog . [SEP] dog[MASK] [MASK]. [mask] [UNK] [PAD]"


def test_special_tokens_in_a_caption_are_split_unless_they_are_wanted(vocab: Path) -> None:
    """Wanted, they have the ids of the tokenizer that published stores were packed with, which spares whole words."""
    from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer, WordpieceTokenizer

    assert not set(WordPiece(vocab).encode(MARKED)[1]) & {0, 2, 3, 4}
    words = WordPiece(vocab, special_words=True)
    basic = BasicTokenizer(do_lower_case=False, never_split=SPECIAL_TOKENS)
    pieces = WordpieceTokenizer(words.vocab, "[UNK]")
    published = [piece for token in basic.tokenize(MARKED) for piece in pieces.tokenize(token)]
    assert words.encode(MARKED)[1] == [PIECES.index(piece) for piece in published]
    assert words.encode("dog [MASK]") == (["dog", "[MASK]"], [PIECES.index("dog"), 4])
    assert words.word_offsets("[CLS] dog.") == [0, 1, 3]


def test_special_words_keep_their_case_and_are_noted(vocab: Path) -> None:
    words = WordPiece(vocab, lower_case=True, clean_first=True, special_words=True)
    assert words.encode("Dog [SEP]")[0] == ["dog", "[SEP]"]
    assert words.meta["special_words"] is True
    assert "special_words" not in WordPiece(vocab).meta
    assert pickle.loads(pickle.dumps(words)).encode("[SEP]")[0] == ["[SEP]"]


def test_special_tokens_and_the_range_of_ordinary_ones(vocab: Path) -> None:
    words = WordPiece(vocab)
    assert (words.special.cls, words.special.sep, words.special.mask) == (2, 3, 4)
    assert words.special.v_range == (5, len(PIECES))
    assert {name: words.meta[name] for name in ("UNK", "CLS", "SEP", "MASK", "v_range")} == {
        "UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, len(PIECES)],
    }  # fmt: skip


def test_meta_names_the_vocabulary_and_its_hash(vocab: Path) -> None:
    meta = WordPiece(vocab).meta
    assert meta["tokenizer"] == "vocab.txt"
    assert meta["vocab_hash"] == hashlib.sha256(vocab.read_bytes()).hexdigest()
    assert meta["lower_case"] is False


def test_windows_line_ends_do_not_become_part_of_pieces(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(PIECES).encode())
    assert WordPiece(tmp_path / "vocab.txt").encode("dog")[0] == ["dog"]


def test_bad_vocabularies_are_named(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    with pytest.raises(DataError, match=r"vocab\.txt cannot be read"):
        WordPiece(path)
    path.write_text("a\nb\n")
    with pytest.raises(DataError, match=r"vocab\.txt lacks \[UNK\]"):
        WordPiece(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        WordPiece(path)
    path.write_text("\n".join([*PIECES, "dog"]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"vocab\.txt, line {len(PIECES) + 1} repeats line 12 \('dog'\)"):
        WordPiece(path)
    path.write_text("")
    with pytest.raises(DataError, match=r"vocab\.txt lacks \[UNK\]"):
        WordPiece(path)


def test_a_mark_of_the_encoding_is_no_part_of_the_first_piece(vocab: Path) -> None:
    vocab.write_text(vocab.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert WordPiece(vocab).vocab["[PAD]"] == 0


def test_travels_to_other_processes(vocab: Path) -> None:
    words = pickle.loads(pickle.dumps(WordPiece(vocab, lower_case=True)))
    assert words.encode("Dog")[0] == ["dog"]


# ---------------------------------------------------------------- learning a vocabulary

SOME = ["A dog runs .", "The dogs run in the park .", "A café in the park", "naïve 日本"] * 3


def test_learnt_vocabularies_begin_with_special_tokens_and_cover_their_captions(tmp_path: Path) -> None:
    learnt = make_vocabulary(SOME, 260)
    assert learnt[:5] == list(SPECIAL_TOKENS)
    assert len(learnt) == len(set(learnt)) <= 260
    (tmp_path / "vocab.txt").write_text("\n".join(learnt) + "\n", encoding="utf-8")
    words = WordPiece(tmp_path / "vocab.txt")
    assert "[UNK]" not in " ".join(" ".join(words.encode(caption)[0]) for caption in SOME)
    assert words.encode("park")[0] == ["park"]
    assert words.special.v_range[0] == learnt.index("!")


def test_learning_is_the_same_in_every_process() -> None:
    imports = "from data.words.wordpiece import make_vocabulary as m; from tests.data.words.test_wordpiece import SOME"
    program = f"{imports}; print(m(SOME, 260))"
    root = Path(__file__).parents[3]
    outputs = {
        subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert outputs == {f"{make_vocabulary(SOME, 260)}\n"}


def test_too_small_a_vocabulary_says_how_large() -> None:
    with pytest.raises(ConfigError, match=r"give 2\d\d or more"):
        make_vocabulary(SOME, 50)


def test_lower_case_vocabularies_hold_no_capitals_of_captions() -> None:
    assert "Park" not in make_vocabulary(["Park Park"] * 5, 300, lower_case=True)
    assert "Park" in make_vocabulary(["Park Park"] * 5, 300)


@pytest.mark.skipif(not CAPTIONS.is_dir(), reason="the published captions are not beside this checkout")
@pytest.mark.parametrize("name", ["f30k/test", "coco/dev"])
def test_real_captions_agree_with_the_library_tokenizer(name: str, tmp_path: Path) -> None:
    """On captions without odd characters, WordPiece in Rust gives the same ids for the caption as a whole."""
    from tokenizers import BertWordPieceTokenizer

    captions = gzip.decompress((CAPTIONS / f"{name}_caps.txt.gz").read_bytes()).decode().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join(make_vocabulary(captions, 2000)) + "\n", encoding="utf-8")
    theirs = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=False, strip_accents=False)
    words = WordPiece(tmp_path / "vocab.txt")
    for caption in captions:
        assert words.encode(caption)[1] == theirs.encode(caption, add_special_tokens=False).ids
