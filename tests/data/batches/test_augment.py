"""data/batches/augment.py: words of training captions masked, replaced or left out, by the item's key alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigError, DataError
from data.batches.augment import KEPT, LEFT_OUT, MASKED, REPLACED, Tokens, WordAugment
from data.batches.pairs import Array, PairIndex, Source
from data.draws import generator
from data.stores.image_store import ImageStore
from data.stores.text_store import TextStore
from data.words.wordpiece import WordPiece
from tests.pieces import PIECES, write_pieces, write_vocabulary
from tests.support import RULE, open_index

CLS, SEP, MASK = 2, 3, 4
CONTINUES = np.array([piece.startswith("##") for piece in PIECES])
DOG, CAT, UN, AFF, ABLE, S = (PIECES.index(piece) for piece in ("dog", "cat", "un", "##aff", "##able", "##s"))


def packed(*captions: list[int]) -> tuple[Array, Array]:
    """Ids with their marks, and lengths."""
    marked = [[CLS, *caption, SEP] for caption in captions]
    return np.array([id for caption in marked for id in caption]), np.array([len(caption) for caption in marked])


def apart(ids: Array, lengths: Array) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids[: lengths.sum()], np.cumsum(lengths)[:-1])]


def one_by_one(caption: list[int], u: list[float], drawn: list[int], rate: float) -> list[int]:
    """A caption altered as the rule is told: token by token, piece by piece."""
    words: list[list[int]] = []
    for id in caption:
        if words and CONTINUES[id]:
            words[-1].append(id)
        else:
            words.append([id])
    source, out = iter(drawn), [CLS]
    for word, each in zip(words, u, strict=False):
        if each >= rate:
            out += word
        elif each / rate < 0.5:
            out += [MASK] * len(word)
        elif each / rate < 0.6:
            out += [next(source) for _ in word]
    return [*out, SEP]


CAPTION = st.lists(st.integers(5, len(PIECES) - 1), max_size=9)
CHANCE = st.floats(0, 1, exclude_max=True)


@given(st.lists(CAPTION, min_size=1, max_size=5), st.data(), st.sampled_from([0.2, 0.7, 1.0]))
def test_a_batch_is_altered_as_its_captions_one_by_one(captions: list[list[int]], data: st.DataObject,
                                                       rate: float) -> None:
    ids, lengths = packed(*captions)
    tokens = Tokens.of(ids, lengths, CONTINUES)
    counts = [sum(at == 0 or not CONTINUES[id] for at, id in enumerate(caption)) for caption in captions]
    assert tokens.counts.tolist() == counts
    u = [data.draw(st.lists(CHANCE, min_size=count, max_size=count)) for count in counts]
    drawn = [data.draw(st.lists(st.integers(0, 99), min_size=9, max_size=9)) for _ in captions]
    fates = tokens.draw_outcomes(np.array([each for row in u for each in row]), rate)
    wanted = tokens.wanted(fates)
    taken = [id for row, count in zip(drawn, wanted, strict=True) for id in row[:count]]
    left = tokens.rewritten(fates, MASK, np.array(taken, np.int64))
    assert apart(*left) == [one_by_one(*each, rate) for each in zip(captions, u, drawn, strict=True)]
    assert apart(ids, lengths) == [[CLS, *caption, SEP] for caption in captions], "what was given stays"


def test_all_pieces_of_a_word_share_its_fate() -> None:
    ids, lengths = packed([DOG, UN, AFF, ABLE, CAT, S], [UN, AFF, ABLE])
    tokens = Tokens.of(ids, lengths, CONTINUES)
    assert tokens.token.tolist() == [-1, 0, 1, 1, 1, 2, 2, -1, -1, 3, 3, 3, -1]
    fates = tokens.draw_outcomes(np.array([0.9, 0.0, 0.19, 0.11]), 0.2)
    assert fates.tolist() == [KEPT, KEPT, *[MASKED] * 3, *[LEFT_OUT] * 2, KEPT, KEPT, *[REPLACED] * 3, KEPT]
    assert tokens.wanted(fates).tolist() == [0, 3]
    left, after = tokens.rewritten(fates, MASK, np.array([0, 3, 9]))
    assert apart(left, after) == [[CLS, DOG, MASK, MASK, MASK, SEP], [CLS, 0, 3, 9, SEP]]


@pytest.mark.parametrize(("u", "fate"), [(0.0, MASKED), (np.nextafter(0.25, 0), MASKED), (0.25, REPLACED),
                                         (np.nextafter(0.3, 0), REPLACED), (0.3, LEFT_OUT),
                                         (np.nextafter(0.5, 0), LEFT_OUT), (0.5, KEPT), (np.nextafter(1, 0), KEPT)])
def test_bounds_belong_to_what_follows(u: float, fate: int) -> None:
    tokens = Tokens.of(*packed([DOG]), CONTINUES)
    assert tokens.draw_outcomes(np.array([u]), 0.5).tolist() == [KEPT, fate, KEPT]


def test_only_marks_may_be_left() -> None:
    tokens = Tokens.of(*packed([DOG, CAT], [], [CAT]), CONTINUES)
    left, after = tokens.rewritten(tokens.draw_outcomes(np.array([0.15, 0.15, 0.9]), 0.2), MASK, np.zeros(0, np.int64))
    assert apart(left, after) == [[CLS, SEP], [CLS, SEP], [CLS, CAT, SEP]]


@pytest.fixture
def augment(tmp_path: Path) -> WordAugment:
    return WordAugment(WordPiece(write_vocabulary(tmp_path / "vocab.txt")), 0.2)


def altered(augment: WordAugment, captions: list[list[int]], keys: list[int]) -> list[list[int]]:
    ids, lengths = packed(*captions)
    room = np.append(ids, [77] * 5)
    after = augment(room, lengths, np.array(keys))
    assert room[len(ids) :].tolist() == [77] * 5, "nothing is written behind the captions"
    return apart(room, after)


def test_a_caption_is_altered_by_its_key_alone(augment: WordAugment) -> None:
    rng = np.random.default_rng(0)
    captions = [rng.integers(5, len(PIECES), rng.integers(1, 12)).tolist() for _ in range(40)]
    together = altered(augment, captions, list(range(100, 140)))
    for at, caption in enumerate(captions):
        assert altered(augment, [caption], [100 + at]) == [together[at]]
    assert altered(augment, captions[::-1], list(range(139, 99, -1))) == together[::-1]
    assert altered(augment, captions, list(range(200, 240))) != together
    assert together != [[CLS, *caption, SEP] for caption in captions]


def test_words_meet_their_fates_as_often_as_published(augment: WordAugment) -> None:
    """10, 2 and 8 of a hundred words, within five standard deviations; replaced ones by any id of the vocabulary."""
    count = 20000
    ids, lengths = packed(*[[UN, AFF]] * count)
    after = augment(ids, lengths, np.arange(count))
    left = apart(ids, after)
    masked = sum(caption == [CLS, MASK, MASK, SEP] for caption in left)
    gone = sum(caption == [CLS, SEP] for caption in left)
    same = sum(caption == [CLS, UN, AFF, SEP] for caption in left)
    for number, share in ((masked, 0.1), (gone, 0.08), (same, 0.8), (count - masked - gone - same, 0.02)):
        assert abs(number - share * count) < 5 * (share * (1 - share) * count) ** 0.5
    plain = [[CLS, MASK, MASK, SEP], [CLS, SEP], [CLS, UN, AFF, SEP]]
    replaced = [caption for caption in left if caption not in plain]
    drawn = [id for caption in replaced for id in caption[1:-1]]
    assert {len(caption) for caption in replaced} == {4}
    assert set(drawn) == set(range(len(PIECES))), "special tokens and continuations too"


def test_a_piece_more_or_less_changes_no_other_draw(augment: WordAugment) -> None:
    """Fates are drawn first, word by word: how many ids are drawn then does not move them."""
    wanted = [REPLACED, KEPT, REPLACED, KEPT]
    tokens = Tokens.of(*packed([DOG] * 4), CONTINUES)
    key = next(key for key in range(99999)
               if tokens.draw_outcomes(generator(key, "words").random(4), 0.2)[1:-1].tolist() == wanted)
    (short,), (long,) = (altered(augment, [caption], [key]) for caption in ([DOG, CAT] * 2, [UN, AFF, CAT, DOG, CAT]))
    assert (len(short), short[2], short[4]) == (6, CAT, CAT)
    assert (len(long), long[3], long[5]) == (7, CAT, CAT)
    assert short[1] == long[1]


# ---------------------------------------------------------------- the vocabulary of the stores


def index_with(texts: Path, stores: tuple[Path, Path]) -> PairIndex:
    return PairIndex([Source(TextStore(texts), ImageStore(stores[1], RULE))])


@pytest.fixture
def texts(stores: tuple[Path, Path], tmp_path: Path) -> Path:
    return write_pieces(tmp_path / "pieces.db", ImageStore(stores[1], RULE).names)


def test_the_vocabulary_is_the_one_that_the_store_keeps(texts: Path, stores: tuple[Path, Path]) -> None:
    augment = WordAugment.of(index_with(texts, stores), 0.3)
    assert augment.continues.tolist() == CONTINUES.tolist()
    assert (augment.rate, augment.mask) == (0.3, MASK)


def test_whole_words_cannot_be_masked() -> None:
    special = SimpleNamespace(mask=None)
    index = SimpleNamespace(sources=[SimpleNamespace(texts=SimpleNamespace(special=special, folder="words.db"))])
    with pytest.raises(ConfigError, match=r"word_augment=0\.2: words\.db holds whole words, which .*set it to 0, or"):
        WordAugment.of(index, 0.2)  # type: ignore[arg-type]


def test_a_store_without_its_vocabulary_is_refused(index: PairIndex) -> None:
    with pytest.raises(DataError, match=r"a\.db/vocab\.txt is not there, and word_augment=0\.2 .*; put the vocabulary"):
        WordAugment.of(index, 0.2)


def test_a_vocabulary_that_is_not_the_stores_own_is_refused(texts: Path, stores: tuple[Path, Path]) -> None:
    index = index_with(texts, stores)
    write_vocabulary(texts / "vocab.txt", (*PIECES[:-1], "##z"))
    with pytest.raises(DataError, match=r"pieces\.db/vocab\.txt is not the vocabulary that the store was packed with"):
        WordAugment.of(index, 0.2)


def test_without_a_hash_the_marks_and_the_size_must_agree(texts: Path, stores: tuple[Path, Path]) -> None:
    index = index_with(texts, stores)
    index.sources[0].texts.vocab_hash = None
    WordAugment.of(index, 0.2)
    write_vocabulary(texts / "vocab.txt", (*PIECES, "more"))
    with pytest.raises(DataError, match="is not the vocabulary"):
        WordAugment.of(index, 0.2)


def test_stores_of_different_vocabularies_are_refused(texts: Path, stores: tuple[Path, Path], tmp_path: Path) -> None:
    names = ImageStore(stores[1], RULE).names
    other = write_pieces(tmp_path / "other.db", names, pieces=(*PIECES[:-1], "##z"))
    index = open_index((texts, stores[1]), (other, stores[1]))
    with pytest.raises(DataError, match=r"pieces\.db/vocab\.txt and .*other\.db/vocab\.txt differ; pack one"):
        WordAugment.of(index, 0.2)
