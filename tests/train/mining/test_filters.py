"""train/mining/filters.py: which pairs are left out, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import DataError
from data.batches.pairs import PairIndex
from tests.mined import embeddings
from train.mining.filters import (
    NO_CEILING,
    Ceilings,
    Excluded,
    check_enough,
    extra_pairs,
    label_captions,
    positive_pairs,
    same_word_pairs,
)


def pairs_of(excluded: Excluded) -> set[tuple[int, int]]:
    return set(zip(excluded.image.tolist(), excluded.text.tolist(), strict=True))


def test_pairs_are_joined_and_counted_once() -> None:
    excluded = Excluded.of(positive_pairs(np.array([0, 0, 2])), (np.array([0, 1]), np.array([1, 2])))
    assert pairs_of(excluded) == {(0, 0), (0, 1), (2, 2), (1, 2)}
    assert excluded.per_image(4).tolist() == [2, 1, 1, 0]
    assert excluded.per_text(3).tolist() == [1, 1, 2]
    assert pairs_of(excluded.within(range(1, 3))) == {(1, 2), (2, 2)}


def test_captions_of_the_same_words(index: PairIndex) -> None:
    words = [tuple(index.sources[0].texts.tokens(text)) for text in index.texts]
    expected = {(int(index.owner[one]), other) for one in range(len(words)) for other in range(len(words))
                if one != other and words[one] == words[other]}
    assert expected, "the tiny stores repeat themselves"
    image, text = same_word_pairs(index)
    found = set(zip(image.tolist(), text.tolist(), strict=True))
    assert expected <= found
    assert found - expected <= set(zip(index.owner.tolist(), range(len(words)), strict=True))
    assert len(np.unique(label_captions(index))) == len(set(words))


def test_extra_pairs_are_read_by_id(index: PairIndex, tmp_path: Path) -> None:
    path = tmp_path / "more.tsv"
    path.write_text(f"{index.images[3]}\t{index.texts[0]}\n\n{index.images[0]}\t{index.texts[9]}\n")
    image, text = extra_pairs(path, index)
    assert (image.tolist(), text.tolist()) == ([3, 0], [0, 9])


@pytest.mark.parametrize(("content", "told"), [
    ("one\n", r"more\.tsv, line 1: holds 1 ids instead of two; write an image id and a caption id"),
    ("a_000000.npz\t00\nnobody.jpg\t00\n", r"line 2: the stores hold no image 'nobody\.jpg'"),
    ("a_000000.npz\tx9\n", r"line 1: the stores hold no caption 'x9'"),
])
def test_a_wrong_line_of_extra_pairs(content: str, told: str, index: PairIndex, tmp_path: Path) -> None:
    (tmp_path / "more.tsv").write_text(content)
    with pytest.raises(DataError, match=told):
        extra_pairs(tmp_path / "more.tsv", index)


def test_a_file_of_extra_pairs_that_is_not_there(index: PairIndex, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: cannot be read .*; write an image id"):
        extra_pairs(tmp_path / "none.tsv", index)


def test_ceilings_lie_below_the_best_positive() -> None:
    images, texts = embeddings(3, 4)
    owner = np.array([0, 0, 1, 1])
    scores = images.double() @ texts.double().T
    found = Ceilings.below(images, texts, owner, 0.25)
    torch.testing.assert_close(found.texts, scores[owner, np.arange(4)] - 0.25, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.images[:2], torch.stack([scores[0, :2].max(), scores[1, 2:].max()]) - 0.25,
                               rtol=0, atol=1e-13)
    assert float(found.images[2]) > NO_CEILING / 2, "an image without captions has no positive"


def test_too_few_candidates_are_told() -> None:
    check_enough(np.array([5, 6]), 5, "image", "texts", "--texts_per_image")
    told = r"image 1 \(counted from 0\) has only 4 texts left as candidates, 5 are wanted; lower --texts_per_image to 4"
    with pytest.raises(DataError, match=told):
        check_enough(np.array([5, 4]), 5, "image", "texts", "--texts_per_image")
