"""Vocabularies of whole words, as precomputed data has them: a word's id is its position in a list."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from config.errors import ConfigError, DataError
from data.files import read_bytes, read_json, write_json
from data.plain_pickle import read_plain_pickle

PAD, START, END, UNKNOWN = range(4)
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
PICKLED = "Vocabulary"
"""The class that vocabularies are pickled as; published ones were written by a script, as `__main__.Vocabulary`."""
OTHER = "give the vocabulary that belongs to the data"


@dataclass(frozen=True)
class Vocabulary:
    """Words by their ids; the first four are <pad>, <start>, <end> and <unk>."""

    words: tuple[str, ...]

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read `*.json`, or `*.pkl` (an object of a class `Vocabulary`), with `word2idx`, `idx2word` and `idx`.

        Raises:
            DataError: the file cannot be read, is neither, holds anything else, or its tables disagree.
        """
        path = Path(path)
        if path.suffix == ".json":
            return cls._of_tables(path, read_json(path, OTHER))
        if path.suffix == ".pkl":
            return cls._of_tables(path, read_plain_pickle(path, read_bytes(path, OTHER), PICKLED))
        raise DataError(f"{path} ends in neither .json nor .pkl; {OTHER}")

    @classmethod
    def _of_tables(cls, path: Path, tables: Any) -> Vocabulary:
        if not isinstance(tables, Mapping) or not isinstance(tables.get("word2idx"), Mapping):
            raise DataError(f"{path} has no table word2idx; {OTHER}")
        ids = tables["word2idx"]
        if not all(type(id) is int and _is_text(word) for word, id in ids.items()):
            raise DataError(f"{path}: word2idx is not a table from words to whole numbers; {OTHER}")
        words = tuple(sorted(ids, key=ids.__getitem__))
        if [ids[word] for word in words] != list(range(len(words))):
            raise DataError(f"{path}: the ids of its {len(words)} words are not 0 to {len(words) - 1}; {OTHER}")
        if words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise DataError(f"{path}: its first words are not {', '.join(SPECIAL_WORDS)}; {OTHER}")
        if "idx2word" in tables and not _inverse(tables["idx2word"], words):
            raise DataError(f"{path}: idx2word is not word2idx the other way round; {OTHER}")
        if tables.get("idx", len(words)) != len(words):
            raise DataError(f"{path}: idx is not {len(words)}, the number of its words; {OTHER}")
        return cls(words)

    @classmethod
    def of_words(cls, captions: Iterable[Iterable[str]], min_count: int) -> Vocabulary:
        """The words that occur `min_count` times or more, the most frequent first, then in order of their letters.

        Raises:
            ConfigError: `min_count` is not positive, or no word occurs so often.
        """
        if min_count < 1:
            raise ConfigError(f"a word cannot have to occur {min_count} times; give 1 or more")
        counts = Counter(word for caption in captions for word in caption)
        kept = [word for word, count in counts.items() if count >= min_count and word not in SPECIAL_WORDS]
        if not kept:
            raise ConfigError(f"no word of these captions occurs {min_count} times; give a lower number")
        return cls((*SPECIAL_WORDS, *sorted(kept, key=lambda word: (-counts[word], word))))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each word."""
        return {word: id for id, word in enumerate(self.words)}

    @cached_property
    def hash(self) -> str:
        """sha256 of the words in their order: the same for either file format."""
        return hashlib.sha256(json.dumps(self.words, ensure_ascii=False).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Ids of words as they are written; <unk> for those it does not hold."""
        return [self.ids.get(word, UNKNOWN) for word in words]

    def save(self, path: Path) -> None:
        """Write the json format."""
        numbered = {str(id): word for id, word in enumerate(self.words)}
        write_json(path, {"word2idx": self.ids, "idx2word": numbered, "idx": len(self.words)})


def _is_text(word: Any) -> bool:
    """Whether it can be written as UTF-8; a half of a surrogate pair cannot."""
    return isinstance(word, str) and not any("\ud800" <= char <= "\udfff" for char in word)


def _inverse(table: Any, words: tuple[str, ...]) -> bool:
    """Whether a table from ids (json has them as strings) to words says the same as the list."""
    if not isinstance(table, Mapping):
        return False
    return {str(id): word for id, word in table.items()} == {str(id): word for id, word in enumerate(words)}
