"""The word-list tokenizer of precomputed data: lower case, NLTK's words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import DataError
from data.words.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from data.words.wordpiece import Special

PUNKT_FILES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
MODEL = "give the folder of a trained Punkt model, punkt_tab/english"


class CaptionWords:
    """NLTK's standard word tokenizer on lower-cased text: sentences by Punkt, then words as in the Penn Treebank.

    Straight double quotes become `` and ''; a full stop is a word of its own where it ends a sentence.

    Args:
        punkt: folder of a trained Punkt model (`punkt_tab/english`). Untrained, the default, Punkt knows no
            abbreviation: "mr. smith" is two sentences, and its full stop a word.

    Raises:
        DataError: the folder lacks a file of the model, or one cannot be read.
    """

    def __init__(self, punkt: str | Path | None = None) -> None:
        from nltk.tokenize.destructive import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

        self.punkt = None if punkt is None else Path(punkt)
        parameters = PunktParameters()
        if self.punkt is not None:
            _fill(parameters, self.punkt)
        self._sentences = PunktSentenceTokenizer(parameters)
        self._words = NLTKWordTokenizer()

    def __reduce__(self) -> tuple[Any, ...]:
        return CaptionWords, (self.punkt,)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The tokenizer's version and how it finds sentences, for a store's meta.json."""
        import nltk

        trained = "untrained" if self.punkt is None else f"trained, {_checksum(self.punkt)[:12]}"
        return {"tokenizer": f"nltk {nltk.__version__}", "sentences": f"punkt, {trained}"}

    def __call__(self, caption: str) -> list[str]:
        """The words of a caption, all of them."""
        sentences = self._sentences.tokenize(caption.lower())
        return [word for sentence in sentences for word in self._words.tokenize(sentence)]

    def starts(self, caption: str) -> list[int]:
        """Where each of these words begins, in characters of the lower-cased caption."""
        return list(self._starts(caption.lower()))

    def _starts(self, text: str) -> Iterator[int]:
        for start, end in self._sentences.span_tokenize(text):
            yield from (start + first for first, _ in self._words.span_tokenize(text[start:end]))


class WordList:
    """Captions as ids of a word-list vocabulary; what packers need of it is what `WordPiece` has.

    <start> and <end> stand for [CLS] and [SEP]; there is no id for masked words.

    Raises:
        DataError: the vocabulary or the Punkt model cannot be used.
    """

    def __init__(self, vocab_file: str | Path, punkt: str | Path | None = None) -> None:
        self.path = Path(vocab_file)
        self.vocabulary = Vocabulary.load(self.path)
        self.tokenizer = CaptionWords(punkt)
        self.vocab_hash = self.vocabulary.hash
        first = 1 + max(PAD, START, END, UNKNOWN)
        self.special = Special(START, END, None, (first, len(self.vocabulary)))

    def __reduce__(self) -> tuple[Any, ...]:
        return WordList, (self.path, self.tokenizer.punkt)

    @property
    def meta(self) -> dict[str, Any]:
        """What a text store notes about its tokenizer and vocabulary."""
        return {
            **self.tokenizer.meta, "lower_case": True, "vocab_file": self.path.name, "vocab_hash": self.vocab_hash,
            "vocab_size": len(self.vocabulary), "PAD": PAD, "UNK": UNKNOWN, "CLS": self.special.cls,
            "SEP": self.special.sep, "MASK": self.special.mask, "v_range": list(self.special.v_range),
        }  # fmt: skip

    def encode(self, caption: str) -> tuple[list[str], list[int]]:
        """Words and ids of a caption, never cut; an unknown word keeps its letters and has the id of <unk>."""
        words = self.tokenizer(caption)
        return words, self.vocabulary.encode(words)

    def word_offsets(self, caption: str) -> list[int]:
        """Where the words of each stretch between spaces begin in what `encode` returns, and where the last ones end.

        Raises:
            DataError: the tokenizer's words cannot be found in the caption again.
        """
        text, at, begins = caption.lower(), 0, []
        for stretch in text.split():
            at = text.index(stretch, at)
            begins.append(at)
            at += len(stretch)
        try:
            starts = self.tokenizer.starts(caption)
        except ValueError as error:
            raise DataError(
                f"the words of {caption!r} cannot be told apart ({error}); leave out its phrases"
            ) from error
        return [*np.searchsorted(starts, begins).tolist(), len(starts)]

    def keep_in(self, folder: Path) -> None:
        """Write the vocabulary into a store's folder, as vocab.json."""
        self.vocabulary.save(folder / "vocab.json")


def _fill(parameters: Any, folder: Path) -> None:
    """A trained model's tables, read here because NLTK itself reads its own download folders only."""
    abbreviations, collocations, contexts, starters = (_lines(folder / name) for name in PUNKT_FILES)
    if not abbreviations or not contexts:
        raise DataError(f"{folder} knows no abbreviation or no context, so it is not trained; {MODEL}")
    try:
        parameters.abbrev_types = set(abbreviations)
        parameters.sent_starters = set(starters)
        parameters.collocations = {(first, second) for first, second in (line.split("\t") for line in collocations)}
        for word, flags in (line.split("\t") for line in contexts):
            parameters.ortho_context[word] = int(flags)
    except ValueError as error:
        raise DataError(f"{folder} is not a trained Punkt model ({error}); {MODEL}") from error


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {MODEL}") from error


def _checksum(folder: Path) -> str:
    return hashlib.sha256(b"\0".join((folder / name).read_bytes() for name in PUNKT_FILES)).hexdigest()
