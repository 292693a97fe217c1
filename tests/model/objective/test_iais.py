"""model/objective/iais.py: both alignments against plain loops, their slopes, and what they do where nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.objective import build_objective, find_objective
from model.objective.iais import ANNEALING, FORMS, Config, Iais
from model.parts.attention import Attention, Blocks
from tests.alignment import Pair, distributed_of_words, plain_pairs, singular_of_words
from tests.samples import batch_for, lively, small

WORDS, REGIONS = [3, 1, 5, 2], [2, 6, 1, 4]
PLAIN: dict[str, Callable[[Pair], float]] = {"singular": singular_of_words, "distributed": distributed_of_words}


def attention(words: list[int] = WORDS, regions: list[int] = REGIONS, scale: float = 1.5) -> Attention:
    source = torch.Generator().manual_seed(7)
    query, key = scale * torch.randn(2, sum(words) + sum(regions), 2, 4, generator=source, dtype=torch.float64)
    return Attention(query, key, torch.tensor(words), torch.tensor(regions))


def seen_from(side: str, blocks: Blocks) -> Blocks:
    return blocks if side == "words" else blocks.transposed


@pytest.mark.parametrize("side", ["words", "regions"])
@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_different_lengths_cost_what_each_costs_alone(form: str, side: str) -> None:
    given = attention()
    found = FORMS[form](seen_from(side, given.blocks()))
    pairs = plain_pairs(given)
    expected = [PLAIN[form](pair if side == "words" else pair.transposed) for pair in pairs]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-9)
    assert max(expected) > 0.1


@pytest.mark.parametrize("side", ["words", "regions"])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_the_slope_in_float64(form: str, side: str) -> None:
    """Through both arguments, the four blocks and their softmaxes, down to queries and keys, padding included."""
    given = attention()

    def cost(query: Tensor, key: Tensor) -> Tensor:
        return FORMS[form](seen_from(side, replace(given, query=query, key=key).blocks()))

    assert torch.autograd.gradcheck(cost, (given.query.requires_grad_(), given.key.requires_grad_()))


@pytest.mark.parametrize("side", ["words", "regions"])
@pytest.mark.parametrize("form", FORMS)
def test_a_caption_without_words_costs_nothing_and_spoils_no_other(form: str, side: str) -> None:
    given = attention([3, 0, 5], [2, 4, 1])
    given.query.requires_grad_()
    found = FORMS[form](seen_from(side, given.blocks()))
    assert found[1] == 0
    found.sum().backward()
    assert torch.isfinite(given.query.grad).all()  # type: ignore[arg-type]
    assert not given.query.grad[5:9].any()  # type: ignore[index]
    alone = FORMS[form](seen_from(side, attention([0], [2]).blocks()))
    assert alone.tolist() == [0.0]


@pytest.mark.parametrize("form", FORMS)
def test_an_image_of_one_region_has_its_own_value(form: str) -> None:
    """One region attends to itself whatever the words say; its words see each other alike through it."""
    given = attention([4], [1])
    blocks = given.blocks()
    assert abs(FORMS[form](blocks.transposed).item()) < 3e-6
    torch.testing.assert_close(FORMS[form](blocks)[0].item(), PLAIN[form](plain_pairs(given)[0]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [4.0, 7.0, 12.0, 40.0])
def test_underflowed_weights_stay_finite_with_their_slopes(scale: float, form: str) -> None:
    """In float32 a softmax of differences above 104 is zero: its logarithm may not reach the loss.

    Nor may a slope leave float32 where fp16 training scales the loss of eight anchors up.
    """
    given = attention([14] * 6, [9] * 6, scale=scale)
    query = given.query.float().requires_grad_()
    cost = FORMS[form](replace(given, query=query, key=given.key.float()).blocks()).sum()
    (cost * 65536 * 8).backward()
    assert torch.isfinite(cost)
    assert torch.isfinite(query.grad).all()  # type: ignore[arg-type]


def test_the_singular_form_asks_for_the_most_attended_only_as_a_choice() -> None:
    blocks = attention().blocks()
    leaves = [part.detach().requires_grad_() for part in (blocks.own, blocks.out, blocks.back, blocks.other)]
    FORMS["singular"](Blocks(*leaves, blocks.rows, blocks.columns)).sum().backward()
    own, out, back, other = leaves
    assert own.grad is not None
    assert other.grad is not None
    assert out.grad is None
    assert back.grad is None


@pytest.mark.parametrize("form", FORMS)
def test_words_that_agree_with_the_regions_cost_next_to_nothing(form: str) -> None:
    """Distributed: own equals the way through; singular: all regions alike make the gathered softmax flat."""
    flat = torch.full((1, 4, 4), 0.25, dtype=torch.float64)
    counts = torch.tensor([4])
    assert FORMS[form](Blocks(flat, flat, flat, flat, counts, counts)).item() == pytest.approx(0.0, abs=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_changes_nothing_in_it(form: str) -> None:
    given = attention()
    single = replace(given, query=given.query.float(), key=given.key.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = FORMS[form](single.blocks())
    assert found.dtype == torch.float32
    assert torch.equal(found, FORMS[form](single.blocks()))


@pytest.mark.parametrize("form", FORMS)
def test_a_bf16_forward_pass_is_finite_and_within_two_percent(form: str) -> None:
    matcher = lively(small("uniter", hidden_size=64, num_attention_heads=4, intermediate_size=128))
    batch = batch_for(matcher, [7, 9, 12, 5], [9, 12, 20, 6, 14], anchors=16)
    objective = Iais(Config(IAIS=form))
    exact = objective(matcher(batch, objective.needs), batch, 0.5)["iais"].value
    with torch.autocast("cpu", torch.bfloat16):
        out = matcher(batch, objective.needs)
    rough = objective(out, batch, 0.5)["iais"].value
    assert rough.dtype == torch.float32
    assert abs(rough.item() - exact.item()) <= 0.02 * exact.item()


def test_annealing_goes_from_the_start_of_the_run_to_its_end() -> None:
    assert ANNEALING["exp"](0.0) == math.exp(-5)
    assert ANNEALING["exp"](1.0) == ANNEALING["linear"](1.0) == 1.0
    assert ANNEALING["log"](0.0) == ANNEALING["linear"](0.0) == 0.0
    assert ANNEALING["log"](1.0) == pytest.approx(1 - math.exp(-5))
    for grow in ANNEALING.values():
        values = [grow(step / 20) for step in range(21)]
        assert values == sorted(values)


@pytest.mark.parametrize(("reduction", "summed"), [("sum", True), ("mean", False)])
def test_it_aligns_words_for_captions_and_regions_for_images(reduction: str, summed: bool) -> None:
    matcher = lively(small("uniter"))
    batch = batch_for(matcher, [3, 7, 1], [4, 9, 5], anchors=4)
    objective = Iais(Config(IAIS="distributed", iais_reduction=reduction, tsa="linear", iais_weight=3.0, margin=0.1))
    out = matcher(batch, objective.needs)
    pairs = plain_pairs(out.attention)
    for direction, side in (("t", pairs), ("i", [pair.transposed for pair in pairs])):
        assert batch.pool is not None
        turned = replace(batch, pool=replace(batch.pool, direction=direction))
        terms = objective(out, turned, 0.25)
        assert terms["iais"].value.item() == pytest.approx(sum(map(distributed_of_words, side)) / 4, rel=1e-4)
        assert (terms["iais"].weight, terms["iais"].summed) == (0.75, summed)
        assert terms["hinge"].weight is None


def test_without_attention_it_says_what_it_lacks() -> None:
    matcher = small("uniter")
    batch = batch_for(matcher, [3, 7, 1], [4, 9, 5], anchors=4)
    with pytest.raises(ValueError, match="attention"):
        Iais(Config())(matcher(batch), batch, 0.0)


def test_it_is_found_by_the_name_of_its_file() -> None:
    assert find_objective("iais") is Iais
    assert isinstance(build_objective(Config()), Iais)
