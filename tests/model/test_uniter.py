"""model/uniter.py: UNITER on packed pairs equals UNITER in padded rectangles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.batches.batch import Batch, Pool, Ragged
from model.uniter import Joint, Uniter, joint_positions
from tests.samples import NO_DROPOUT, batch_for, lively, padded_uniter, small

REGIONS, WORDS = [3, 7, 1, 7], [4, 9, 2, 5, 5]


def uniter(**settings: object) -> Uniter:
    matcher = small("uniter", **settings)
    assert isinstance(matcher, Uniter)
    return matcher


def with_large_weights(**settings: object) -> Uniter:
    matcher = lively(uniter(**settings))
    assert isinstance(matcher, Uniter)
    return matcher


def with_pool() -> tuple[Batch, Pool]:
    batch = batch_for(uniter(), REGIONS, WORDS, 6)
    assert batch.pool is not None
    return batch, batch.pool


def padded_scores(matcher: Uniter, batch: Batch, pool: Pool, wider: int = 0) -> Tensor:
    """The plain reference on the pairs of a pool, padded to the longest side and `wider`."""
    image, text = pool.image.flatten(), pool.text.flatten()
    words, word_mask = batch.texts.padded(int(batch.texts.lengths.max()) + wider)
    features, region_mask = batch.images.features.padded(int(batch.images.lengths.max()) + wider)
    boxes, _ = Ragged(batch.images.boxes, batch.images.features.offsets).padded(features.shape[1])
    scores = padded_uniter(dict(matcher.named_parameters()), matcher.config.num_attention_heads,
                           matcher.config.hidden_act, words[text], word_mask[text], features[image], boxes[image],
                           region_mask[image])
    return scores.view(pool.image.shape)


@pytest.mark.parametrize("activation", ["gelu", "relu", "swish"])
@pytest.mark.parametrize("wider", [0, 5])
def test_packed_scores_are_padded_scores(activation: str, wider: int) -> None:
    matcher = with_large_weights(hidden_act=activation)
    batch, pool = with_pool()
    with torch.no_grad():
        scores, plain = matcher(batch).scores["match"], padded_scores(matcher, batch, pool, wider)
    assert plain.std() > 0.1
    torch.testing.assert_close(scores, plain, atol=5e-5, rtol=1e-5)


def test_packed_gradients_are_padded_gradients() -> None:
    matcher = with_large_weights(**NO_DROPOUT).train()
    batch, pool = with_pool()
    grads = []
    for way in (lambda: matcher(batch).scores["match"], lambda: padded_scores(matcher, batch, pool)):
        matcher.zero_grad()
        way().square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in matcher.named_parameters() if p.grad is not None})
    packed, padded = grads
    assert packed.keys() == padded.keys()
    for name, grad in packed.items():
        scale = padded[name].abs().max().clamp(min=0.1)
        torch.testing.assert_close(grad / scale, padded[name] / scale, atol=2e-4, rtol=0, msg=name)


def test_joint_positions_by_hand() -> None:
    found = joint_positions(torch.tensor([2, 3]), torch.tensor([1, 2]), torch.tensor([3, 3]))
    assert found.values.tolist() == [0, 1, 3, 0, 1, 2, 3, 4]
    assert found.lengths.tolist() == [3, 5]
    early = joint_positions(torch.tensor([3]), torch.tensor([2]), torch.tensor([1]))
    assert early.values.tolist() == [0, 1, 2, 1, 2]


def test_pairs_are_lists_of_rows_sorted_by_length() -> None:
    texts = Ragged.of(torch.arange(5.0)[:, None], torch.tensor([3, 2]))
    images = Ragged.of(10 + torch.arange(3.0)[:, None], torch.tensor([2, 1]))
    joint = Joint.of(texts, images, torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert joint.table[joint.rows, 0].tolist() == [3, 4, 12, 0, 1, 2, 10, 11]
    assert joint.packing.lengths.tolist() == [3, 5]
    assert joint.place.tolist() == [1, 0]


def test_rows_are_projected_once_and_copied() -> None:
    matcher = with_large_weights()
    batch, pool = with_pool()
    texts, images = matcher.encode_text(batch.texts), matcher.encode_image(batch.images)
    joint = Joint.of(texts.rows, images.rows, pool.text.flatten(), pool.image.flatten())
    x, _, projected = matcher.embedded(joint)
    torch.testing.assert_close(projected, matcher.encoder.layers[0].qkv(x))  # type: ignore[operator]


def test_the_published_gather_offset_is_kept_where_it_is_asked_for() -> None:
    """The authors placed the regions after the pool's last caption; the words in between are padding that is seen."""
    batch, pool = with_pool()
    right = with_large_weights()
    odd = with_large_weights(hn_image_gather_offset="last_caption")
    with torch.no_grad():
        same, other = right(batch).scores["match"], odd(batch).scores["match"]
    late = (batch.texts.lengths[pool.text] < pool.frame[:, 1:]) | (pool.frame[:, 1:] < pool.frame[:, :1])
    assert late.any()
    assert not torch.allclose(same[late], other[late], atol=1e-3)
    whole = replace(batch, pool=replace(pool, frame=batch.texts.lengths[pool.text[:, :1]].expand(-1, 2)))
    alone = whole.select(torch.arange(4), torch.arange(5), replace(pool.columns(torch.zeros(6, 1, dtype=torch.int64)),
                                                                 frame=whole.pool.frame))  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(odd(alone).scores["match"], right(alone).scores["match"], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_weights_start_normal_and_biases_at_zero(spread: float) -> None:
    matcher = uniter(hidden_size=64, intermediate_size=128, vocab_size=300, initializer_range=spread)
    for name, parameter in matcher.named_parameters():
        norm = "norm" in name
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif norm:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            count, values = parameter.numel(), parameter.detach()
            assert abs(float(values.std(correction=0)) - spread) < 5 * spread / (2 * count) ** 0.5, name
            assert abs(float(values.mean())) < 5 * spread / count**0.5, name
    assert matcher.text.words.weight[0].any(), "the row of padding is drawn too"


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = uniter().state_dict(), uniter().state_dict(), small("uniter", seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["rank.weight"], other["rank.weight"])


def test_heads_of_pre_training_are_frozen_and_get_no_gradient() -> None:
    matcher = uniter().train()
    batch, _ = with_pool()
    matcher(batch).scores["match"].sum().backward()
    silent = {name for name, parameter in matcher.named_parameters() if parameter.grad is None}
    assert silent == {"match.weight", "match.bias", "region.mask.weight"}
    assert all(not parameter.requires_grad for name, parameter in matcher.named_parameters() if name in silent)


def test_dropout_acts_in_training_and_only_there() -> None:
    matcher, (batch, _) = uniter(), with_pool()
    exact = uniter(**NO_DROPOUT).train()(batch).scores["match"]
    assert torch.equal(matcher.eval()(batch).scores["match"], exact)
    matcher.train()
    torch.manual_seed(0)
    noisy = matcher(batch).scores["match"]
    assert not torch.allclose(noisy, exact)


def test_masked_regions_have_the_mask_row_added() -> None:
    matcher, (batch, _) = with_large_weights(), with_pool()
    masked = torch.zeros(len(batch.images.boxes), dtype=torch.bool)
    masked[2] = True
    plain = matcher.encode_image(batch.images).rows.values
    shown = matcher.encode_image(batch.images, masked).rows.values
    assert (plain != shown).any(1).nonzero().flatten().tolist() == [2]
    features = batch.images.features.values.float()
    features[2] += matcher.region.mask.weight[1]
    images = replace(batch.images, features=Ragged(features, batch.images.features.offsets))
    torch.testing.assert_close(matcher.encode_image(images).rows.values, shown)


def test_half_precision_features_are_read_as_they_are() -> None:
    matcher, (batch, _) = with_large_weights(), with_pool()
    assert batch.images.features.values.dtype == torch.float16
    features = Ragged(batch.images.features.values.float(), batch.images.features.offsets)
    single = replace(batch, images=replace(batch.images, features=features))
    assert torch.equal(matcher(batch).scores["match"], matcher(single).scores["match"])
