"""LAPS as a matcher: what its settings do, what it refuses, and the losses and pairs that are its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from config.errors import ConfigError
from data.batches.batch import Batch
from model.laps import Config, Laps, group_by_image, ratio_term
from model.matcher import Side
from tests.samples import SMALL, batch_for, lively, small

WORDS = [4, 9, 3, 5, 5, 8]
SWIN = {"model_type": "swin", "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
        "window_size": 4}


def laps(**settings: Any) -> Laps:
    matcher = small("laps", **settings)
    assert isinstance(matcher, Laps)
    return matcher


def batch_of(matcher: Laps, images: int = 5) -> Batch:
    return batch_for(matcher, [1] * images, WORDS)


def scores(matcher: Laps, batch: Batch) -> Tensor:
    return matcher(batch).scores["match"]


@pytest.mark.parametrize("alignment", ["slimmed", "max_mean", "scan_t2i", "scan_i2t", "scan_all", "pooled"])
@pytest.mark.parametrize("vision", [SMALL["vision"], SWIN], ids=["vit", "swin"])
def test_each_alignment_scores_and_teaches_every_parameter(alignment: str, vision: dict[str, Any]) -> None:
    matcher = laps(alignment=alignment, vision=vision).train()
    found = scores(matcher, batch_of(matcher))
    assert found.shape == (5, 6)
    found.square().sum().backward()
    assert [name for name, p in matcher.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("alignment", ["slimmed", "max_mean", "scan_all", "pooled"])
def test_a_pair_alone_scores_what_it_scores_among_others(alignment: str) -> None:
    matcher = lively(laps(alignment=alignment))
    batch = batch_of(matcher)
    with torch.no_grad():
        together = scores(matcher, batch)
        for image, text in [(0, 1), (4, 2), (2, 5)]:
            alone = scores(matcher, batch.select(torch.tensor([image]), torch.tensor([text])))
            torch.testing.assert_close(alone[0, 0], together[image, text], atol=1e-5, rtol=1e-5)


def test_listed_pairs_have_the_gradients_of_the_whole() -> None:
    matcher = laps().double().train()
    batch = batch_of(matcher)
    image, text = torch.tensor([3, 0, 3, 1]), torch.tensor([5, 2, 0, 2])
    images = matcher.encode_image(batch.images)
    texts = matcher.encode_text(batch.texts)
    weight = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    listed = (matcher.score_pairs(images, texts, image, text) * weight).sum()
    whole = (matcher.score(images, texts)[image, text] * weight).sum()
    parameters = list(matcher.parameters())
    ours, theirs = (torch.autograd.grad(total, parameters, retain_graph=True) for total in (listed, whole))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-8)


def test_the_ratio_term_is_a_constant_of_what_is_kept() -> None:
    matcher = laps(sparse_ratio=0.3, ratio_weight=2.0).train()
    ratio = matcher(batch_of(matcher)).aux["ratio"]
    assert ratio.item() == pytest.approx(2 * (5 / 16 - 0.3) ** 2, rel=1e-5)
    assert not ratio.requires_grad
    assert matcher.eval()(batch_of(matcher)).aux == {}
    assert laps(alignment="max_mean").train()(batch_of(matcher)).aux == {}


def test_the_ratio_term_is_a_mean_over_images() -> None:
    shares = torch.tensor([0.75, 0.5, 0.25, 1.0])
    parts = [ratio_term(part, 0.5) for part in shares.split(2)]
    assert ratio_term(shares, 0.5).item() == pytest.approx((0.0625 + 0 + 0.0625 + 0.25) / 4)
    assert torch.stack(parts).mean().item() == pytest.approx(ratio_term(shares, 0.5).item()), "on any number of ranks"


def test_a_score_network_learns_from_scores_and_from_the_ratio() -> None:
    matcher = laps(score_net=True).train()
    out = matcher(batch_of(matcher))
    assert matcher.score_net is not None
    for loss in (out.scores["match"].square().sum(), out.aux["ratio"]):
        grads = torch.autograd.grad(loss, list(matcher.score_net.parameters()), retain_graph=True)
        assert all(grad.abs().sum() > 0 for grad in grads)


def test_a_score_network_decides_when_nothing_else_may() -> None:
    matcher = lively(laps(score_net=True, attention_weight=0.0))
    batch = batch_of(matcher)
    with torch.no_grad():
        images, texts = matcher.encode_image(batch.images), matcher.encode_text(batch.texts)
        kept = matcher.look(images, texts.select(torch.argsort(batch.texts.lengths))).kept
        assert matcher.score_net is not None
        likely = matcher.score_net(matcher.split_cls(images)[1])
    best = likely.topk(8).indices.sort(-1).values
    assert torch.equal(kept, kept[:, :1].expand_as(kept)), "no text has a say"
    assert torch.equal(kept[:, 0].nonzero()[:, 1].view(5, 8), best)


def test_the_first_token_is_cls_where_the_tower_says_so() -> None:
    vit, swin = laps(), laps(vision=SWIN)
    for matcher, spatial in ((vit, 16), (swin, 64)):
        whole, patches = matcher.split_cls(matcher.encode_image(batch_of(matcher).images))
        assert (whole is not None) == (matcher is vit)
        assert patches.shape == (5, spatial, 16)


def test_as_published_it_is_guessed_from_their_number() -> None:
    """Eight patches and [CLS] are nine tokens, a square: the published rule sees no [CLS] there."""
    image = Side(batch_tokens(9))
    assert laps().split_cls(image)[0] is not None
    assert laps(infer_cls_from_square=True).split_cls(image)[0] is None
    assert laps(infer_cls_from_square=True).split_cls(Side(batch_tokens(10)))[0] is not None


def batch_tokens(count: int) -> Any:
    from data.batches.batch import Ragged

    return Ragged.of(torch.randn(2 * count, 16), torch.tensor([count, count]))


def test_evaluation_compares_no_more_than_so_many_words() -> None:
    matcher = lively(laps(max_word=5))
    batch = batch_of(matcher)
    assert matcher.encode_text(batch.texts).rows.lengths.tolist() == [min(length, 5) for length in WORDS]
    assert matcher.train().encode_text(batch.texts).rows.lengths.tolist() == WORDS
    unlimited = lively(laps())
    with torch.no_grad():
        ours = matcher.eval().encode_text(batch.texts).rows
        theirs = unlimited.encode_text(batch.texts).rows
    start = int(theirs.offsets[1])
    torch.testing.assert_close(ours.values[4:9], theirs.values[start : start + 5])


def test_parity_keeps_a_row_of_zeros_where_nothing_is_dropped() -> None:
    """A word that no patch is like finds the zeros; and they count in the mean over rows."""
    settings: dict[str, Any] = {"sparse_ratio": 1.0, "aggr_ratio": 0.2, "leaky": False}
    plain, zeros = lively(laps(**settings)), lively(laps(**settings, extra_token="zero"))
    batch = batch_of(plain)
    with torch.no_grad():
        rows = [matcher.look(matcher.encode_image(batch.images), matcher.encode_text(batch.texts.slice(0, 1))).cosines
                for matcher in (plain, zeros)]
    assert rows[1].shape[2] == rows[0].shape[2] + 1
    assert (rows[1][:, :, -1] == 0).all()


@pytest.mark.parametrize("settings", [{"aggr_ratio": 0.1}, {"sparse_ratio": 0.05}])
def test_ratios_that_leave_no_patch_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="of 16 patches no aggregated one is left; raise one of the ratios"):
        laps(**settings)


def test_recomputed_layers_give_the_same_gradients() -> None:
    found = []
    for recompute in (False, True):
        matcher = laps(recompute_layers=recompute).train()
        torch.manual_seed(5)
        scores(matcher, batch_of(matcher)).sum().backward()
        found.append([p.grad for p in matcher.parameters()])
    for plain, again in zip(*found, strict=True):
        assert plain is not None
        torch.testing.assert_close(plain, again, rtol=1e-5, atol=1e-7)


def test_half_precision_towers_leave_the_comparison_in_float32() -> None:
    matcher = lively(laps(embed_size=12))
    batch = batch_of(matcher)
    with torch.no_grad():
        exact = matcher.encode_image(batch.images).rows.values
        with torch.autocast("cpu", torch.bfloat16):
            images, texts = matcher.encode_image(batch.images), matcher.encode_text(batch.texts)
            found = matcher.score(images, texts)
        assert not torch.allclose(images.rows.values, exact, atol=1e-4), "the towers were in half precision"
        assert images.rows.values.dtype == found.dtype == torch.float32
        assert torch.equal(found, matcher.score(images, texts))


def test_the_direction_of_an_image_leaves_cls_out() -> None:
    matcher = laps()
    images = matcher.encode_image(batch_of(matcher).images)
    tokens = images.rows.values.view(5, 17, 16)[:, 1:]
    torch.testing.assert_close(matcher.pooled_images(images), F.normalize(tokens.mean(1), dim=-1))


def test_pairs_are_grouped_by_image() -> None:
    found = {one: at.tolist() for one, at in group_by_image(torch.tensor([4, 0, 4, 2, 0]))}
    assert found == {0: [1, 4], 2: [3], 4: [0, 2]}


def test_the_published_sizes_are_the_defaults() -> None:
    config = Config()
    assert (config.embed_size, config.sparse_ratio, config.aggr_ratio, config.max_word) == (512, 0.5, 0.4, 90)
    assert config.vision == {"model_type": "vit"}
    assert config.text == {"model_type": "bert"}
