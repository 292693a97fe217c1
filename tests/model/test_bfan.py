"""model/bfan.py: the encoders, and the settings that change them; the similarity has its own test."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from config.errors import ConfigError
from model.bfan import Bfan, Config, ScaledLinear
from model.matcher import Matcher, Side
from tests.samples import images_of, lively, small, texts_of


def matcher_of(**settings: object) -> Bfan:
    found: Matcher = lively(small("bfan", **settings))
    assert isinstance(found, Bfan)
    return found


def sides(matcher: Bfan) -> tuple[Side, Side]:
    with torch.no_grad():
        images = matcher.encode_image(images_of([3, 5], matcher.image_dim, half=False))
        return images, matcher.encode_text(texts_of([4, 3, 6], matcher.vocab_size))


def test_regions_are_a_linear_map_at_unit_length() -> None:
    matcher = matcher_of()
    images = images_of([3, 5], matcher.image_dim, half=False)
    assert isinstance(matcher.regions, nn.Linear)
    plain = images.features.values @ matcher.regions.weight.T + matcher.regions.bias
    plain = plain / (plain.norm(dim=1, keepdim=True) + 1e-8)
    torch.testing.assert_close(sides(matcher)[0].rows.values, plain)


def test_words_are_the_mean_of_both_directions_at_unit_length() -> None:
    matcher = matcher_of()
    texts = texts_of([4, 3, 6], matcher.vocab_size)
    found = sides(matcher)[1].rows
    for number, ids in enumerate(texts.values.split(texts.lengths.tolist())):
        with torch.no_grad():
            forth, back = matcher.word_rnn(matcher.words(ids)[None])[0][0].chunk(2, dim=1)
        plain = (forth + back) / 2
        torch.testing.assert_close(found.slice(number, number + 1).values, plain / (plain.norm(dim=1)[:, None] + 1e-8))


def test_scores_lie_between_minus_two_and_two_and_reach_two() -> None:
    matcher = matcher_of()
    images, texts = sides(matcher)
    assert matcher.score(images, texts).abs().max() < 2
    assert float(matcher.score(images.slice(0, 1), images.slice(0, 1)).detach()) == pytest.approx(2.0, abs=0.5)
    row = Side(images.rows.slice(0, 1).select(torch.tensor([0])))
    lone = Side(type(row.rows).of(row.rows.values[:1], torch.tensor([1])))
    assert float(matcher.score(lone, lone).detach()) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize(("setting", "side"), [("no_imgnorm", 0), ("no_txtnorm", 1)])
def test_a_side_may_keep_its_lengths(setting: str, side: int) -> None:
    unit, free = sides(matcher_of()), sides(matcher_of(**{setting: True}))
    torch.testing.assert_close(unit[side].rows.values, nn.functional.normalize(free[side].rows.values, dim=1))
    assert not torch.allclose(free[side].rows.values.norm(dim=1), torch.ones(len(free[side].rows.values)))
    assert torch.equal(unit[1 - side].rows.values, free[1 - side].rows.values)


def test_a_direction_and_a_length_make_the_matrix() -> None:
    torch.manual_seed(0)
    linear, x = ScaledLinear(6, 4), torch.randn(3, 6)
    torch.testing.assert_close(linear(x), x @ linear.weight_v.T)
    with torch.no_grad():
        linear.weight_v.mul_(7)
        linear.weight_g.fill_(2)
        linear.bias.fill_(0.5)
    direction = linear.weight_v / linear.weight_v.square().sum().sqrt()
    torch.testing.assert_close(linear(x), 2 * x @ direction.T + 0.5)
    assert isinstance(matcher_of(precomp_enc_type="weight_norm").regions, ScaledLinear)


def test_the_fresh_weights_are_the_published_ones() -> None:
    torch.manual_seed(0)
    matcher = Bfan(Config(vocab_size=500, img_dim=300, embed_size=200, word_dim=40))
    assert isinstance(matcher.regions, nn.Linear)
    bound = (6 / 500) ** 0.5
    assert 0.95 * bound < matcher.regions.weight.abs().max() <= bound
    assert not matcher.regions.bias.any()
    assert 0.095 < matcher.words.weight.abs().max() <= 0.1


@pytest.mark.parametrize("focal_type", ["equal", "prob"])
def test_the_settings_reach_the_focus(focal_type: str) -> None:
    focus = matcher_of(focal_type=focal_type, lambda_softmax=9.0, focal_empty="nan").focus
    assert (focus.kind, focus.scale, focus.empty) == (focal_type, 9.0, "nan")


def test_the_kinds_of_focus_and_the_scale_change_the_scores() -> None:
    scores = [
        matcher.score(*sides(matcher)).detach()
        for matcher in (matcher_of(), matcher_of(focal_type="prob"), matcher_of(lambda_softmax=4.0))
    ]
    assert not torch.allclose(scores[0], scores[1], atol=1e-4)
    assert not torch.allclose(scores[0], scores[2], atol=1e-4)


@pytest.mark.parametrize("bad", [{"focal_type": "sharp"}, {"lambda_softmax": 0}, {"precomp_enc_type": "none"}])
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises((ValueError, ConfigError)):
        Config.model_validate(bad)
