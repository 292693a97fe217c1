"""data/batches/offline_negatives.py: which wrong images and texts join a caption, whoever else is in its batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import DataError
from data.batches.false_negatives import FalseNegatives
from data.batches.offline_negatives import Coupling, Offline, OfflineDraw, quintuplets
from data.batches.owners import Owners
from data.batches.pairs import Array, PairIndex
from tests.items import random_candidates
from tests.support import open_index, write_stores


def offline(index: PairIndex, best: int = 10, rank_ratio: int = 5, coupling: Coupling = "shared",
            seed: int = 3) -> Offline:
    return Offline(index, random_candidates(index), best, rank_ratio, coupling, seed)


def drawn(source: Offline, epoch: int = 0, texts: Array | None = None) -> OfflineDraw:
    texts = np.arange(len(source.index.texts)) if texts is None else texts
    return source.draw(np.full_like(texts, epoch), texts)


def ranks(source: Offline, epochs: int) -> tuple[Array, Array]:
    """Where in their lists the draws of all captions over some epochs were found: ranks of texts and of images."""
    found = [drawn(source, epoch) for epoch in range(epochs)]
    text, image = ([np.argmax(lists[at] == off[:, None], axis=1) for at, off in chosen] for lists, chosen in (
        (source.candidates.i2t, [(one.image, one.text_off) for one in found]),
        (source.candidates.t2i, [(one.text, one.image_off) for one in found])))
    return np.concatenate(text), np.concatenate(image)


def test_a_quintuplet_is_looked_up_as_published() -> None:
    """Four images of 1, 2, 3 and 1 texts; text 3 of image 2 is given its image's list at 1 and its own at 0."""
    owners = Owners(np.array([0, 1, 1, 2, 2, 2, 3]), 4)
    i2t, t2i = np.full((4, 3), -1, np.int32), np.full((7, 2), -1, np.int32)
    i2t[2], t2i[3] = [6, 1, 0], [1, 3]
    found = quintuplets(owners, i2t, t2i, *(np.array([value]) for value in (3, 1, 0, 0.7)))
    assert [part.tolist() for part in found] == [[2], [3], [1], [1], [1], [2]]
    assert all(part.dtype == np.int64 for part in found)


def test_a_draw_depends_on_seed_epoch_and_caption_alone(index: PairIndex) -> None:
    source, texts = offline(index), np.array([7, 30, 2, 47])
    epochs = np.array([0, 1, 1, 0])
    whole = [drawn(offline(index), epoch) for epoch in range(2)]
    for name in OfflineDraw._fields:
        expected = [getattr(whole[epoch], name)[text] for epoch, text in zip(epochs, texts, strict=True)]
        assert getattr(source.draw(epochs, texts), name).tolist() == expected
    assert not np.array_equal(whole[0].text_off, whole[1].text_off)
    assert not np.array_equal(whole[0].text_off, drawn(offline(index, seed=4)).text_off)


def test_one_draw_ranks_both_as_published(index: PairIndex) -> None:
    text, image = ranks(offline(index), epochs=20)
    assert set(text) == set(range(10))
    assert image.tolist() == (text // 5).tolist()


def test_independent_draws_rank_text_and_image_on_their_own(index: PairIndex) -> None:
    text, image = ranks(offline(index, coupling="independent"), epochs=20)
    assert set(text) == set(range(10))
    assert set(image) == {0, 1}
    assert abs(np.corrcoef(text, image)[0, 1]) < 0.1
    assert text.tolist() == ranks(offline(index), epochs=20)[0].tolist(), "the coupling moves no other draw"


@pytest.mark.parametrize("coupling", ["shared", "independent"])
@pytest.mark.parametrize(("best", "ratio", "images"), [(10, 5, 2), (7, 5, 2), (10, 10, 1), (2, 1, 2), (1, 5, 1)])
def test_only_the_best_are_drawn(coupling: Coupling, best: int, ratio: int, images: int, index: PairIndex) -> None:
    text, image = ranks(offline(index, best, ratio, coupling), epochs=20)
    assert set(text) == set(range(best))
    assert set(image) == set(range(images))


def test_all_candidates_and_all_texts_of_a_wrong_image_are_drawn_evenly(index: PairIndex) -> None:
    source, epochs = offline(index, coupling="independent"), 200
    text, image = ranks(source, epochs)
    for found, kinds in ((text, 10), (image, 2)):
        expected = len(found) / kinds
        assert np.abs(np.bincount(found) - expected).max() < 5 * np.sqrt(expected)
    off2 = np.concatenate([drawn(source, epoch).text_off2 for epoch in range(epochs)])
    wrong = np.concatenate([drawn(source, epoch).image_off for epoch in range(epochs)])
    for texts in ([0, 1], [2, 3, 4], [5]):  # of images with two, three and one
        total = (wrong == index.owner[texts[0]]).sum()
        counts = [(off2 == one).sum() for one in texts]
        assert sum(counts) == total > 0
        assert np.abs(np.array(counts) - total / len(texts)).max() < 5 * np.sqrt(total)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(0, 9))
def test_off2_are_the_partners_of_off_however_many_texts_an_image_has(counts: list[int], seed: int) -> None:
    owner = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    index: Any = SimpleNamespace(images=[*map(str, range(len(counts)))], texts=owner, owner=owner,
                                 owners=Owners(owner, len(counts)))
    source = Offline(index, random_candidates(index, 1, 1, seed), 1, 5, "shared", seed)
    found = drawn(source)
    assert found.image.tolist() == owner[found.text].tolist()
    assert found.image_off2.tolist() == owner[found.text_off].tolist()
    assert found.image_off.tolist() == owner[found.text_off2].tolist()
    assert not (found.image_off == found.image).any()
    assert not (found.image_off2 == found.image).any()


def test_what_is_spared_gives_way_to_the_next_of_its_list(index: PairIndex) -> None:
    usual = offline(index)
    image = np.repeat(np.arange(24), 3)
    text = usual.candidates.i2t[:, [0, 9, 4]].ravel()
    pairs = FalseNegatives(image, text, index.owner, 24)
    sparing = Offline(index, usual.candidates, 10, 5, "shared", 3, pairs)
    for epoch in range(5):
        before, after = drawn(usual, epoch), drawn(sparing, epoch)
        i2t, t2i = usual.candidates.i2t.tolist(), usual.candidates.t2i.tolist()
        for at, (own, caption) in enumerate(zip(before.image, before.text, strict=True)):
            texts = [one for one in i2t[own][:10] * 2 if not pairs.hold(own, np.array(one))]
            left = i2t[own].index(before.text_off[at])
            expected = next(one for one in i2t[own][left:10] + i2t[own][:left] if one in texts)
            assert after.text_off[at] == expected
            left = t2i[caption].index(before.image_off[at])
            images = t2i[caption][left:2] + t2i[caption][:left]
            assert after.image_off[at] == next(one for one in images if not pairs.hold(np.array(one), caption))


def test_lists_of_nothing_but_what_is_spared_are_refused_before_the_first_draw(index: PairIndex) -> None:
    lists = random_candidates(index)
    pairs = FalseNegatives(np.full(3, 7), lists.i2t[7, :3], index.owner, 24)
    with pytest.raises(DataError, match=rf"the 3 best candidates of {index.images[7]} are all false negatives "):
        Offline(index, lists, 3, 3, "shared", 3, pairs)
    Offline(index, lists, 4, 4, "shared", 3, pairs)


def test_an_image_without_captions_is_refused_by_its_name(tmp_path: Path) -> None:
    bare = open_index(write_stores(tmp_path, images=6, captions=(2, 1)))
    index: Any = SimpleNamespace(images=[*bare.images, "lonely"], texts=bare.texts,
                                 owners=Owners(bare.owner, len(bare.images) + 1))
    with pytest.raises(DataError, match="offline negatives: image lonely has no caption to draw; leave it out"):
        Offline(index, random_candidates(bare, 2, 1), 2, 2, "shared", 0)
