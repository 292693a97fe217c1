"""LAPS's similarity against a loop that makes every vector of every pair, as the equations are written."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.parts import tiling
from model.parts.slimming import Captions, Pictures, Rule
from model.parts.tiling import similarities

IMAGES, PATCHES, WIDTH, AGGREGATED = 4, 16, 12, 3
LENGTHS = [2, 3, 3, 5, 7, 9]


def made(dtype: torch.dtype = torch.float64, whole: bool = True, seed: int = 0) -> tuple[Pictures, Tensor]:
    """Pictures, and raw words `[m, w, c]` with junk behind the end of each text."""
    source = torch.Generator().manual_seed(seed)
    sizes = (IMAGES, PATCHES, WIDTH), (IMAGES, AGGREGATED, PATCHES), (IMAGES, WIDTH), (len(LENGTHS), 9, WIDTH)
    patches, logits, cls, words = (torch.randn(size, generator=source, dtype=dtype).requires_grad_() for size in sizes)
    return Pictures(patches, logits, cls if whole else None), words


def captions_of(words: Tensor) -> Captions:
    there = torch.arange(words.shape[1]) < torch.tensor(LENGTHS)[:, None]
    sums = (words.detach() * there[..., None]).double().sum(1)
    return Captions(F.normalize(words, dim=-1) * there[..., None], torch.tensor(LENGTHS), F.normalize(sums, dim=-1))


def found(pictures: Pictures, words: Tensor, rule: Rule) -> Tensor:
    whole = None if pictures.whole is None else F.normalize(pictures.whole, dim=-1)
    return similarities(replace(pictures, whole=whole), captions_of(words), rule)


def by_pairs(pictures: Pictures, words: Tensor, rule: Rule) -> Tensor:
    """`[n, m]`, one pair after the other, every kept, aggregated and fused patch made."""
    rows = []
    for image in range(len(pictures.patches)):
        spatial, logits = pictures.patches[image], pictures.logits[image]
        own = F.normalize(spatial, dim=-1)
        row = []
        for text, length in enumerate(LENGTHS):
            said = words[text, :length]
            score = (own @ F.normalize(spatial.mean(0), dim=-1) + own @ F.normalize(said.mean(0), dim=-1)).detach()
            if pictures.bias is not None:
                score = pictures.bias[image] + pictures.sway * score
            order = score.argsort(descending=True)
            count = math.ceil(PATCHES * rule.keep)
            best, rest = order[:count], order[count:]
            parts = [] if pictures.whole is None else [pictures.whole[image][None]]
            parts.append(logits[:, best].softmax(-1) @ spatial[best])
            if len(rest):
                parts.append(score[rest].softmax(-1).to(spatial.dtype)[None] @ spatial[rest])
            elif rule.zero_row:
                parts.append(spatial.new_zeros(1, WIDTH))
            cosines = F.normalize(said, dim=-1) @ F.normalize(torch.cat(parts), dim=-1).T
            bent = F.leaky_relu(cosines, 0.1) if rule.bend else cosines
            of_rows = bent.max(0).values.mean() if rule.both_ways else 0
            row.append(bent.max(1).values.mean() + of_rows)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.fixture(params=[2**18, 400, 60], ids=["one tile", "some texts a tile", "one pair a tile"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "TILE", {"cpu": request.param})


RULES = [Rule(0.5), Rule(0.33), Rule(1.0), Rule(1.0, zero_row=True), Rule(0.8, bend=False), Rule(0.8, both_ways=False)]


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("whole", [True, False])
def test_scores_and_gradients_are_those_of_the_equations(whole: bool, rule: Rule) -> None:
    pictures, words = made(whole=whole)
    ours, theirs = found(pictures, words, rule), by_pairs(pictures, words, rule)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    inputs = [part for part in (pictures.patches, pictures.logits, pictures.whole, words) if part is not None]
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    for mine, other in zip(*(torch.autograd.grad(s, inputs, weight) for s in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_a_learned_bias_moves_the_choice() -> None:
    pictures, words = made()
    bias = torch.rand(IMAGES, PATCHES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    swayed = replace(pictures, bias=bias, sway=0.1)
    torch.testing.assert_close(
        found(swayed, words, Rule(0.5)), by_pairs(swayed, words, Rule(0.5)), rtol=0, atol=1e-12
    )
    assert not torch.allclose(found(swayed, words, Rule(0.5)), found(pictures, words, Rule(0.5)))


def test_float32_is_near_and_stays_float32() -> None:
    pictures, words = made(torch.float32)
    exact, wide = made(torch.float32)
    exact = Pictures(*(None if part is None else part.double() for part in (exact.patches, exact.logits, exact.whole)))
    ours = found(pictures, words, Rule(0.5))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), found(exact, wide.double(), Rule(0.5)), rtol=0, atol=1e-6)


def test_logits_far_apart_do_no_harm() -> None:
    """The heaviest patch of an aggregated one may be a dropped one, and the kept ones nothing beside it."""
    pictures, words = made(torch.float32)
    far = replace(pictures, logits=(300 * pictures.logits.detach()).requires_grad_())
    ours, theirs = found(far, words, Rule(0.5)), by_pairs(far, words, Rule(0.5))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    grads = torch.autograd.grad(ours.sum(), [far.patches, far.logits, words])
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_patches_of_zeros_do_no_harm() -> None:
    pictures, words = made(torch.float32)
    with torch.no_grad():
        pictures.patches[0].zero_()
    ours = found(pictures, words, Rule(0.5))
    ours.sum().backward()
    assert torch.isfinite(ours).all()
    assert pictures.patches.grad is not None
    assert torch.isfinite(pictures.patches.grad).all()


def test_nothing_of_a_pair_is_kept_for_the_gradient() -> None:
    """What is saved grows with the number of texts as the texts do themselves."""

    def saved(texts: int) -> int:
        pictures, words = made(torch.float32)
        many = words.detach().repeat(texts, 1, 1)[: len(LENGTHS) * texts].requires_grad_()
        sizes: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        unit = F.normalize(many, dim=-1)
        queries, lengths = unit.detach().double().mean(1), torch.full((len(many),), 9)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            similarities(pictures, Captions(unit, lengths, queries), Rule(0.5))
        return sum(sizes) - len(many) * 9 * WIDTH

    assert saved(1) == saved(8)


def test_the_same_numbers_whatever_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which patches are kept is not moved by tiles, so that scores differ by rounding only."""
    pictures, words = made(torch.float32)
    seen = []
    for size in (2**18, 400, 60):
        monkeypatch.setattr(tiling, "TILE", {"cpu": size})
        seen.append(found(pictures, words, Rule(0.5)))
    assert all((other - seen[0]).abs().max() < 1e-6 for other in seen)
