"""The words of a caption as pages show them."""

from __future__ import annotations

import pytest

from config.errors import DataError
from scripts.page.pairs import words_of


@pytest.mark.parametrize(("record", "labels", "owner"), [
    ({"raw": "Dogs ran.", "toked_caption": ["Dog", "@@##s", "ran", "@@."]}, ["Dogs", "ran."], [0, 0, 1, 1]),
    ({"raw": "\u200b Dogs ran", "toked_caption": ["Dog", "@@##s", "ran"]}, ["Dogs", "ran"], [0, 0, 1]),
    ({"toked_caption": ["Dog", "@@##s", "@@@"]}, ["Dogs@"], [0, 0, 0]),
])
def test_words_and_their_pieces(record, labels, owner):
    words = words_of(record | {"input_ids": list(range(len(record["toked_caption"])))}, "here")
    assert words.labels == labels
    assert words.owner.tolist() == owner


@pytest.mark.parametrize("record", [{}, {"toked_caption": ["a"]}, {"toked_caption": "ab"}])
def test_a_caption_whose_pieces_are_not_told_is_refused(record):
    with pytest.raises(DataError, match=r"caption 7 has no toked_caption that fits its 2 ids; pack the captions again"):
        words_of(record | {"input_ids": [5, 6]}, "caption 7")
