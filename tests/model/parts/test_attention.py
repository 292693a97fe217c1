"""model/parts/attention.py: the four blocks of each pair, from queries and keys that lie packed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.parts.attention import Attention
from tests.alignment import plain_pairs
from tests.samples import batch_for, lively, small

WORDS, REGIONS = [3, 1, 5, 2], [2, 6, 1, 4]


def attention(words: list[int], regions: list[int], dtype: torch.dtype = torch.float64) -> Attention:
    source = torch.Generator().manual_seed(sum(words))
    total = sum(words) + sum(regions)
    query, key = 2 * torch.randn(2, total, 2, 4, generator=source, dtype=dtype)
    return Attention(query, key, torch.tensor(words), torch.tensor(regions))


def close(got: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(got, torch.tensor(expected, dtype=got.dtype).view(got.shape), atol=1e-6, rtol=1e-5)


def test_pairs_of_different_lengths_have_the_blocks_that_each_has_alone() -> None:
    given = attention(WORDS, REGIONS)
    blocks = given.blocks()
    for at, pair in enumerate(plain_pairs(given)):
        n, k = WORDS[at], REGIONS[at]
        close(blocks.own[at, :n, :n], pair.own)
        close(blocks.out[at, :n, :k], pair.out)
        close(blocks.back[at, :k, :n], pair.back)
        close(blocks.other[at, :k, :k], pair.other)


def test_rows_sum_to_one_and_padding_is_nothing() -> None:
    blocks = attention(WORDS, REGIONS).blocks()
    sums = blocks.own.sum(2)
    assert torch.allclose(sums, (torch.arange(5) < torch.tensor(WORDS)[:, None]).double())
    assert not blocks.out[1, 1:].any()
    assert not blocks.out[0, :, 2:].any()
    assert blocks.inside.sum((1, 2)).tolist() == [9, 1, 25, 4]


def test_turned_is_the_view_from_the_regions() -> None:
    blocks = attention(WORDS, REGIONS).blocks()
    turned = blocks.transposed
    assert turned.own is blocks.other
    assert turned.out is blocks.back
    assert turned.rows.tolist() == REGIONS
    assert turned.transposed.inside.equal(blocks.inside)


def test_a_pair_without_words_has_empty_blocks_and_spoils_no_other() -> None:
    source = attention([3, 0, 5], [2, 4, 1])
    blocks = source.blocks()
    assert not blocks.back[1].any()
    assert torch.isfinite(blocks.own).all()
    close(blocks.other[1, :4, :4], plain_pairs(source)[1].other)
    assert attention([0], [2]).blocks().own.shape == (1, 1, 1)


def test_half_precision_states_are_projected_in_float32() -> None:
    layer = lively(small("uniter")).encoder.top  # type: ignore[operator, union-attr]
    states = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = Attention.of(layer, states.bfloat16(), torch.tensor([2]), torch.tensor([3]))
        blocks = found.blocks()
    assert found.query.dtype == blocks.own.dtype == torch.float32
    exact = Attention.of(layer, states.bfloat16().float(), torch.tensor([2]), torch.tensor([3])).blocks()
    assert torch.equal(blocks.out, exact.out)


def test_a_matcher_hands_it_over_only_when_asked() -> None:
    matcher = lively(small("uniter"))
    batch = batch_for(matcher, [3, 7, 1], [4, 9, 3], anchors=4)
    assert matcher(batch).attention is None
    out = matcher(batch, frozenset({"attention"}))
    assert batch.pool is not None
    assert out.attention.words.tolist() == (batch.texts.lengths[batch.pool.text[:, 0]] - 2).tolist()
    assert out.attention.regions.tolist() == batch.images.lengths[batch.pool.image[:, 0]].tolist()
    torch.testing.assert_close(out.scores["match"], matcher(batch).scores["match"])


def test_it_is_that_of_the_words_without_their_marks_and_of_the_regions() -> None:
    """Against the last layer's own projections of its whole input, one pair at a time."""
    matcher = lively(small("uniter"))
    batch = batch_for(matcher, [3, 7, 1], [4, 9, 3])
    images, texts = matcher.encode_image(batch.images), matcher.encode_text(batch.texts)
    image, text = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 2, 2])
    watched = torch.tensor([3, 0])
    _, found = matcher.score_with_attention(images, texts, image, text, watched)
    start = 0
    for pair in watched.tolist():
        states = torch.cat([texts.rows.select(text[[pair]]).values, images.rows.select(image[[pair]]).values])
        words, regions = int(texts.rows.lengths[text[pair]]), int(images.rows.lengths[image[pair]])
        packing = torch.tensor([words + regions])
        below = matcher.encoder.below(states, _packing(packing))
        inner = torch.cat([below[1 : words - 1], below[words:]])
        query = matcher.encoder.top.query(inner).view(len(inner), 2, -1)
        torch.testing.assert_close(found.query[start : start + len(inner)], query, atol=1e-5, rtol=1e-4)
        start += len(inner)
    assert start == len(found.query)


def _packing(lengths: Tensor) -> object:
    from model.parts.transformer import Packing

    return Packing(lengths)


def test_the_published_offset_offers_none() -> None:
    assert small("uniter").offers == {"attention"}
    assert not small("uniter", hn_image_gather_offset="last_caption").offers


def test_a_matcher_that_offers_none_says_so_when_asked_all_the_same() -> None:
    from model.matcher import Matcher

    with pytest.raises(NotImplementedError, match="offers no attention"):
        Matcher.score_with_attention(small("uniter"), *[None] * 5)  # type: ignore[list-item]
