"""A text store of WordPieces that keeps its vocabulary, with words of one piece and of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.stores.text_store import TextWriter, caption_record
from data.words.wordpiece import SPECIAL_TOKENS, WordPiece

PIECES = (*SPECIAL_TOKENS, "!", ".", "[", "]", "mask", "dog", "cat", "runs", "un", "##aff", "##able", "##s")
WORDS = ("dog", "cat", "dogs", "cats", "runs", "unaffable", "unaffables", "dog.", "odd")


def write_vocabulary(path: Path, pieces: Sequence[str] = PIECES) -> Path:
    """One piece a line."""
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return path


def write_pieces(
    folder: Path, images: Sequence[str], captions: int = 2, pieces: Sequence[str] = PIECES, seed: int = 0
) -> Path:
    """A store of so many random captions of each image, from one word to eight."""
    rng = np.random.default_rng(seed)
    words = WordPiece(write_vocabulary(folder.with_suffix(".txt"), pieces))
    with TextWriter(folder, words.meta) as writer:
        words.keep_in(writer.partial)
        for number, image in enumerate(images):
            for which in range(captions):
                text = " ".join(rng.choice(WORDS, int(rng.integers(1, 9))))
                writer.add(f"{number}-{which}", caption_record(words, text, image, {}))
    return folder
