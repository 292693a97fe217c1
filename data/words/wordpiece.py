"""The WordPiece tokenizer, word by word, exactly as the published caption stores were written."""

from __future__ import annotations

import hashlib
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from config.errors import ConfigError, DataError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100  # characters; BERT calls anything longer unknown
IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@dataclass(frozen=True)
class Special:
    """Ids of the special tokens, and the range [first, end) of ordinary ones; word lists have no mask."""

    cls: int
    sep: int
    mask: int | None
    v_range: tuple[int, int]

    @property
    def size(self) -> int:
        """How many ids a model must know for these."""
        return 1 + max(self.cls, self.sep, -1 if self.mask is None else self.mask, self.v_range[1] - 1)


class Tokenizer(Protocol):
    """What packers need of a tokenizer with its vocabulary: `WordPiece` here, or `data.words.word_list.WordList`."""

    @property
    def meta(self) -> dict[str, Any]:
        """What a text store notes about it."""

    def encode(self, caption: str) -> tuple[list[str], list[int]]:
        """Words or pieces of a caption, and their ids."""

    def word_offsets(self, caption: str) -> list[int]:
        """Where those of each stretch between spaces begin, and where the last ones end."""

    def keep_in(self, folder: Path) -> None:
        """Write the vocabulary into a store's folder."""


class WordPiece:
    """BERT's tokenizer for a given vocabulary file (one piece a line, the id is the line number from 0).

    Args:
        lower_case: lower case and no accents, for uncased vocabularies.
        clean_first: clean the whole caption before it is split into words, as the tokenizer of `transformers` does,
            not word by word, as UNITER's packer did. It matters where a control character divides words (a vertical
            tab, say: gone before, it divides nothing), for characters that are private or not assigned (gone too),
            and for letters written apart from their accents in a cased vocabulary (joined).
        special_words: a word of a caption that reads like a special token, "[MASK]" say, is that token, as in
            published stores. Else it is split like any other, and no caption can hold a mark.

    Raises:
        DataError: the file is missing, is not UTF-8, holds a piece twice, or lacks a special token.
    """

    def __init__(
        self, vocab_file: str | Path, lower_case: bool = False, clean_first: bool = False, special_words: bool = False
    ) -> None:
        self.path = Path(vocab_file)
        self.lower_case, self.clean_first, self.special_words = lower_case, clean_first, special_words
        content = _read(self.path)
        self.vocab_hash = hashlib.sha256(content).hexdigest()
        self.vocab = {piece: number for number, piece in enumerate(_lines(self.path, content))}
        self.unk, cls, sep, mask = (self._special(name) for name in ("[UNK]", "[CLS]", "[SEP]", "[MASK]"))
        # As published, ordinary pieces begin at the exclamation mark; vocabularies without one, after [MASK].
        self.special = Special(cls, sep, mask, (self.vocab.get("!", mask + 1), len(self.vocab)))
        self._of_word = lru_cache(maxsize=1 << 18)(self._encode_marked if special_words else self._encode_word)

    def _special(self, name: str) -> int:
        if name not in self.vocab:
            raise DataError(f"{self.path} lacks {name}; it is not a WordPiece vocabulary of BERT's kind")
        return self.vocab[name]

    def __getstate__(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in ("lower_case", "clean_first", "special_words")}
        return {"vocab_file": self.path, **options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def meta(self) -> dict[str, Any]:
        """What a text store notes about its tokenizer, under the published names and ours."""
        noted = {
            "tokenizer": self.path.name, "lower_case": self.lower_case, "vocab_hash": self.vocab_hash,
            "vocab_size": len(self.vocab), "UNK": self.unk, "CLS": self.special.cls, "SEP": self.special.sep,
            "MASK": self.special.mask, "v_range": list(self.special.v_range),
        }  # fmt: skip
        return noted | {name: True for name in ("clean_first", "special_words") if getattr(self, name)}

    def encode(self, caption: str) -> tuple[list[str], list[int]]:
        """Pieces and ids of a caption; every piece that continues a whitespace word is marked with `@@`."""
        pieces: list[str] = []
        ids: list[int] = []
        for word in self._split(caption):
            of_word, ids_of_word = self._of_word(word)
            pieces += of_word
            ids += ids_of_word
        return pieces, ids

    def word_offsets(self, caption: str) -> list[int]:
        """Where the pieces of each whitespace word begin in what `encode` returns, and where the last ones end.

        Raises:
            DataError: cleaning the caption first joins words of it, or leaves nothing of one.
        """
        words = self._split(caption)
        if len(words) != len(caption.split()):
            raise DataError(f"{caption!r} has other words once it is clean; leave out its phrases")
        return list(accumulate((len(self._of_word(word)[1]) for word in words), initial=0))

    def keep_in(self, folder: Path) -> None:
        """Copy the vocabulary into a store's folder, as vocab.txt."""
        shutil.copyfile(self.path, folder / "vocab.txt")

    def _split(self, caption: str) -> list[str]:
        return (_clean(caption) if self.clean_first else caption).split()

    def _encode_marked(self, word: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """A word that may be a special token."""
        if word in SPECIAL_TOKENS and word in self.vocab:
            return (word,), (self.vocab[word],)
        return self._encode_word(word)

    def _encode_word(self, word: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        found = [piece for token in _basic_tokens(word, self.lower_case) for piece in self._pieces(token)]
        marked = tuple(piece if at == 0 else f"@@{piece}" for at, piece in enumerate(found))
        return marked, tuple(self.vocab[piece] for piece in found)

    def _pieces(self, token: str) -> list[str]:
        """Greedy longest match from the left; one [UNK] where the token cannot be covered."""
        if len(token) > LONGEST_WORD:
            return ["[UNK]"]
        pieces: list[str] = []
        start = 0
        while start < len(token):
            mark = "##" if start else ""
            ends = range(len(token), start, -1)
            end = next((end for end in ends if mark + token[start:end] in self.vocab), None)
            if end is None:
                return ["[UNK]"]
            pieces.append(mark + token[start:end])
            start = end
        return pieces


def make_vocabulary(captions: Iterable[str], size: int, lower_case: bool = False) -> list[str]:
    """A WordPiece vocabulary of `size` pieces learnt from captions, the same for the same captions.

    It begins with [PAD], [UNK], [CLS], [SEP], [MASK], then single characters (printable ASCII and all that
    occur), so that no caption in those characters has an unknown word.

    Raises:
        ConfigError: `size` does not hold the single characters.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = [" ".join(_words(caption, lower_case)) for caption in captions]
    alphabet = sorted({*map(chr, range(33, 127)), *"".join(lines)} - {" "})
    # The alphabet is given as special tokens because the trainer numbers what it finds itself in random order,
    # and breaks ties between merges by number.
    fixed = [*SPECIAL_TOKENS, *alphabet, *(f"##{char}" for char in alphabet)]
    if size < len(fixed):
        raise ConfigError(f"a vocabulary of {size} cannot hold {len(alphabet)} letters; give {len(fixed)} or more")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=fixed, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    numbered = tokenizer.get_vocab()
    return sorted(numbered, key=numbered.__getitem__)


def _words(caption: str, lower_case: bool) -> Iterator[str]:
    return (token for word in caption.split() for token in _basic_tokens(word, lower_case))


def _basic_tokens(word: str, lower_case: bool) -> Iterator[str]:
    """Runs of ordinary characters; ideographs and punctuation alone; control and format characters gone."""
    if lower_case:
        decomposed = unicodedata.normalize("NFD", word.lower())
        word = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
    run = ""
    for char in word:
        if _is_dropped(char):
            continue
        if not _stands_alone(char):
            run += char
            continue
        if run:
            yield run
        run = ""
        yield char
    if run:
        yield run


def _clean(caption: str) -> str:
    """A caption without control, private and unassigned characters, its letters joined with their accents."""
    kept = (char for char in caption if char in "\t\n\r" or not unicodedata.category(char).startswith("C"))
    return unicodedata.normalize("NFC", "".join(kept).replace("\ufffd", ""))


def _is_dropped(char: str) -> bool:
    return char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf")


def _stands_alone(char: str) -> bool:
    code = ord(char)
    if code < 128:
        return 33 <= code <= 126 and not char.isalnum()
    is_ideograph = any(first <= code <= last for first, last in IDEOGRAPHS)
    return is_ideograph or unicodedata.category(char).startswith("P")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"vocabulary {path} cannot be read ({error.strerror}); check the path") from error


def _lines(path: Path, content: bytes) -> list[str]:
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"vocabulary {path} is not UTF-8 ({error}); copy it again") from error
    if lines and not lines[-1]:
        lines.pop()
    pieces = [line.removesuffix("\r") for line in lines]
    _check_once(path, pieces)
    return pieces


def _check_once(path: Path, pieces: list[str]) -> None:
    """Raise DataError where a piece has two ids."""
    first: dict[str, int] = {}
    for at, piece in enumerate(pieces, start=1):
        if first.setdefault(piece, at) != at:
            where = f"vocabulary {path}, line {at}"
            raise DataError(f"{where} repeats line {first[piece]} ({piece!r}); a piece has one id: copy the file again")
