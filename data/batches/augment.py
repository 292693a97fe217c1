"""Word augmentation as in the LAPS release: words are masked, replaced or dropped, keyed by the item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from config.errors import ConfigError, DataError
from data.batches.pairs import Array, PairIndex
from data.draws import generator
from data.stores.text_store import TextStore
from data.words.wordpiece import Special, WordPiece

MASKED, REPLACED, LEFT_OUT, KEPT = range(4)
SHARES = (0.5, 0.6, 1.0)
"""Of the words that are altered: half masked, a tenth replaced, the rest left out."""


@dataclass(frozen=True)
class Tokens:
    """Packed captions taken apart into basic tokens, the words and punctuation marks that pieces were made of.

    Attributes:
        ids: `[total]`, captions with their marks ([CLS] and [SEP]), one after the other.
        caption: `[total]`, the caption of each id.
        token: `[total]`, the number of each id's basic token, counted over all captions; -1 for marks.
        counts: `[captions]`, basic tokens of each.
    """

    ids: Array
    caption: Array
    token: Array
    counts: Array

    @classmethod
    def of(cls, ids: Array, lengths: Array, continues: Array) -> Tokens:
        """Take apart captions of `lengths [captions]`; `continues [vocabulary]` says which pieces begin no token."""
        ends = np.cumsum(lengths)
        starts = ends - lengths
        begins = ~continues[ids]
        begins[starts[lengths > 2] + 1] = True
        begins[starts] = begins[ends - 1] = False
        token = np.cumsum(begins) - 1
        token[starts] = token[ends - 1] = -1
        caption = np.repeat(np.arange(len(lengths)), lengths)
        return cls(ids, caption, token, np.bincount(caption[begins], minlength=len(lengths)))

    def draw_outcomes(self, u: Array, rate: float) -> Array:
        """What becomes of each id, `[total]`, where the basic tokens drew `u [tokens]` from [0, 1)."""
        return np.append(np.digitize(u / rate, SHARES), KEPT)[self.token]  # the appended one is that of marks, -1

    def wanted(self, fates: Array) -> Array:
        """How many ids each caption has to draw, `[captions]`: one for each that is replaced."""
        return np.bincount(self.caption[fates == REPLACED], minlength=len(self.counts))

    def rewritten(self, fates: Array, mask: int, drawn: Array) -> tuple[Array, Array]:
        """The ids that are left and the captions' new lengths; `drawn` are the ids that replace others, in order."""
        ids = self.ids.copy()
        ids[fates == MASKED] = mask
        ids[fates == REPLACED] = drawn
        stays = fates != LEFT_OUT
        return ids[stays], np.bincount(self.caption[stays], minlength=len(self.counts))


class WordAugment:
    """Alters each basic token with probability `rate`: all its pieces become [MASK], or random ids, or it is left out.

    Of 100 altered tokens 50 are masked, 10 replaced, piece by piece, by ids drawn from the whole vocabulary, and 40
    left out. The marks at a caption's ends stay, and may be all that stays.

    Args:
        vocabulary: what the captions were packed with.
    """

    def __init__(self, vocabulary: WordPiece, rate: float) -> None:
        self.rate, self.mask = rate, vocabulary.vocab["[MASK]"]
        self.continues = np.zeros(1 + max(vocabulary.vocab.values()), bool)
        self.continues[[id for piece, id in vocabulary.vocab.items() if piece.startswith("##")]] = True

    @classmethod
    def of(cls, index: PairIndex, rate: float) -> WordAugment:
        """With the vocabulary that the text stores keep.

        Raises:
            ConfigError: a store holds whole words, which cannot be masked.
            DataError: a store keeps no vocabulary, not its own, or another than the others.
        """
        found = {kept.vocab_hash: kept for kept in (read_vocabulary(source.texts, rate) for source in index.sources)}
        if len(found) > 1:
            raise DataError(f"{' and '.join(str(kept.path) for kept in found.values())} differ; pack one store again")
        return cls(next(iter(found.values())), rate)

    def __call__(self, ids: Array, lengths: Array, keys: Array) -> Array:
        """Rewrite packed captions in place, from the front of `ids`; returns their new lengths `[captions]`.

        Args:
            ids: begins with the captions, of `lengths [captions]`.
            keys: `[captions]`; equal captions with equal keys are altered alike.
        """
        tokens = Tokens.of(ids[: lengths.sum()], lengths, self.continues)
        draws = [generator(key, "words") for key in keys.tolist()]
        u = np.concatenate([draw.random(count) for draw, count in zip(draws, tokens.counts, strict=True)])
        fates = tokens.draw_outcomes(u, self.rate)
        wanted = zip(draws, tokens.wanted(fates), strict=True)
        drawn = np.concatenate([draw.integers(len(self.continues), size=count) for draw, count in wanted])
        left, lengths = tokens.rewritten(fates, self.mask, drawn)
        ids[: len(left)] = left
        return lengths


def read_vocabulary(store: TextStore, rate: float) -> WordPiece:
    """The vocabulary that a text store keeps."""
    if store.special.mask is None:
        raise ConfigError(
            f"word_augment={rate}: {store.folder} holds whole words, which have no [MASK]; set it to 0, or pack "
            "WordPieces (scripts/build_txtdb.py --vocab)"
        )
    path = store.folder / "vocab.txt"
    if not path.is_file():
        raise DataError(
            f"{path} is not there, and word_augment={rate} has to tell words from their pieces; put the vocabulary "
            "there that the store was packed with, or set word_augment to 0"
        )
    kept = WordPiece(path)
    if store.vocab_hash not in (None, kept.vocab_hash) or special_ids(kept.special) != special_ids(store.special):
        raise DataError(f"{path} is not the vocabulary that the store was packed with; put that one there")
    return kept


def special_ids(special: Special) -> tuple[int | None, ...]:
    """What two copies of a vocabulary cannot differ in."""
    return special.cls, special.sep, special.mask, special.size
