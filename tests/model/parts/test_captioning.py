"""The captioning branch against plain loops: a caption at a time, a step at a time, a region at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches.batch import Ragged
from model.parts.captioning import STREAMS, Captioned, Captioner, Steps, Targets
from model.parts.layers import keyed_dropout_mask

M = 6
REGIONS, IMAGE = [3, 1, 4], torch.tensor([2, 0, 2, 1])
CAPTIONS = [[1, 9, 2], [1, 5, 6, 7, 8, 2], [1, 2], [1, 4, 5, 6, 7, 8, 9, 2]]
KEYS = torch.tensor([11, -7, 2**60, 0])


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged.of(torch.tensor([word for row in rows for word in row]), torch.tensor([len(row) for row in rows]))


def regions_of(lengths: list[int], width: int = 5) -> Ragged:
    source = torch.Generator().manual_seed(1)
    values = torch.randn(sum(lengths), width, generator=source, dtype=torch.float64)
    return Ragged.of(values.requires_grad_(), torch.tensor(lengths))


def captioner(both: bool = False, dropout: float = 0.0) -> Captioner:
    torch.manual_seed(0)
    return Captioner(vocab_size=10, width=5, hidden=4, word_dim=3, bidirectional=both, dropout=dropout).double()


def said(branch: Captioner, regions: Ragged, pairs: list[int] | None = None) -> Captioned:
    chosen = torch.arange(len(IMAGE)) if pairs is None else torch.tensor(pairs)
    targets = Targets.of(ragged(CAPTIONS).select(chosen), M)
    return branch(regions, IMAGE[chosen], targets, KEYS[chosen])


def by_pair(out: Captioned) -> dict[tuple[int, int], Tensor]:
    """Log-probabilities by (pair, step)."""
    places = zip(out.steps.order[out.steps.pair].tolist(), out.steps.time.tolist(), strict=True)
    return dict(zip(places, out.log_probs, strict=True))


def test_targets_are_the_caption_and_one_zero() -> None:
    targets = Targets.of(ragged([[1, 9, 2], [1, 2]]), 5)
    assert targets.labels.tolist() == [[1, 9, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0]]
    assert targets.masks.tolist() == [[True] * 4 + [False] * 2, [True] * 3 + [False] * 3]


@pytest.mark.parametrize(
    ("caption", "labels"),
    [([1, 4, 5, 3], [1, 4, 5, 3, 0]), ([1, 4, 5, 6, 3], [1, 4, 5, 3, 0]), ([1, 4, 5, 6, 7, 3], [1, 4, 5, 3, 0])],
)
def test_a_cut_caption_ends_with_its_own_end(caption: list[int], labels: list[int]) -> None:
    targets = Targets.of(ragged([caption, [1, 3]]), 4)
    assert targets.labels.tolist() == [labels, [1, 3, 0, 0, 0]]
    assert targets.masks[0].all()


def test_steps_are_those_that_are_asked_for_with_the_longest_in_front() -> None:
    steps = Steps.of(Targets.of(ragged(CAPTIONS), M).masks)
    assert steps.order.tolist() == [1, 3, 0, 2]
    assert steps.running == [4, 4, 3, 2, 2]
    assert steps.pair.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1]
    assert steps.time.tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 2 + [4] * 2


def reference(branch: Captioner, regions: Ragged) -> tuple[Tensor, dict[tuple[int, int], Tensor]]:
    """The mean loss and all log-probabilities, one pair after the other, every step up to M - 1."""
    state = dict(branch.named_parameters())
    width = branch.attend.out_features

    def dropped(x: Tensor, pair: int, stream: int) -> Tensor:
        rate = branch.dropout if branch.training else 0.0
        return x * ~keyed_dropout_mask(torch.Size([1, len(x)]), rate, KEYS[pair : pair + 1], stream)[0] / (1 - rate)

    loss, found = torch.zeros((), dtype=torch.float64), {}
    for pair, caption in enumerate(CAPTIONS):
        cut = caption if len(caption) <= M else [*caption[: M - 1], 2]
        labels, masks = cut + [0] * (M + 1 - len(cut)), [1] * (len(cut) + 1) + [0] * (M - len(cut))
        rows = [branch.regions(row) for row in regions.values.split(regions.lengths.tolist())[IMAGE[pair]]]
        rows = [dropped(row, pair, STREAMS * place) for place, row in enumerate(rows)]
        seen, last = branch.encoder(torch.stack(rows)[None])
        hidden = last.flatten()
        for step in range(M - 1):
            worth = [
                branch.attention(torch.tanh(branch.attend(torch.cat([row, hidden])))) for row in seen[0]
            ]
            weights = torch.cat(worth).softmax(0)
            context = sum(weight * row for weight, row in zip(weights, seen[0], strict=True))
            word = dropped(branch.words.weight[labels[step]], pair, STREAMS * step + 1)
            given = torch.cat([word, dropped(context, pair, STREAMS * step + 2)])
            inputs = state["decoder.weight_ih_l0"] @ given + state["decoder.bias_ih_l0"]
            inner = state["decoder.weight_hh_l0"] @ hidden + state["decoder.bias_hh_l0"]
            reset, update = torch.sigmoid(inputs[: 2 * width] + inner[: 2 * width]).split(width)
            new = torch.tanh(inputs[2 * width :] + reset * inner[2 * width :])
            hidden = (1 - update) * new + update * hidden
            found[pair, step] = F.log_softmax(branch.out(hidden), 0)
            loss = loss - masks[step + 1] * found[pair, step][labels[step + 1]]
    return loss / len(CAPTIONS), found


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_it_is_the_plain_loop_with_its_gradients(both: bool, dropout: float) -> None:
    branch, regions = captioner(both, dropout), regions_of(REGIONS)
    parameters = [regions.values, *branch.parameters()]
    out = said(branch, regions)
    loss, log_probs = reference(branch, regions)
    torch.testing.assert_close(out.loss, loss)
    for place, row in by_pair(out).items():
        torch.testing.assert_close(row, log_probs[place])
    ours, theirs = torch.autograd.grad(out.loss, parameters), torch.autograd.grad(loss, parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_for_training_only() -> None:
    branch, regions = captioner(dropout=0.5), regions_of(REGIONS)
    exact = said(captioner(), regions).loss
    assert not torch.allclose(said(branch, regions).loss, exact)
    torch.testing.assert_close(said(branch.eval(), regions).loss, exact)


def test_a_pair_knows_nothing_of_its_company() -> None:
    """Neither the regions of other images nor the captions beside it, nor dropout, tell a pair who else is there."""
    branch, regions = captioner(dropout=0.5), regions_of(REGIONS)
    together = by_pair(said(branch, regions))
    for pair in range(len(CAPTIONS)):
        for (_, step), row in by_pair(said(branch, regions, [pair])).items():
            torch.testing.assert_close(row, together[pair, step])
    losses = [said(branch, regions, [pair]).loss for pair in range(len(CAPTIONS))]
    torch.testing.assert_close(said(branch, regions).loss, torch.stack(losses).mean())


def test_draws_depend_on_the_key_and_not_on_the_process() -> None:
    branch, regions = captioner(dropout=0.5), regions_of(REGIONS)
    targets, before = Targets.of(ragged(CAPTIONS), M), torch.random.get_rng_state()
    first, again, other = (branch(regions, IMAGE, targets, keys).loss for keys in (KEYS, KEYS, KEYS + 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_its_gradients_are_those_of_finite_differences() -> None:
    branch, regions = captioner(both=True, dropout=0.3), regions_of(REGIONS)
    parameters = [regions.values, branch.attend.weight, branch.attention.weight, branch.words.weight,
                  dict(branch.decoder.named_parameters())["weight_hh_l0"]]
    targets = Targets.of(ragged(CAPTIONS), M)
    assert torch.autograd.gradcheck(lambda *_: branch(regions, IMAGE, targets, KEYS).loss, parameters)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_near_in_half_precision(dtype: torch.dtype) -> None:
    branch, regions = captioner().float(), regions_of(REGIONS)
    single = Ragged(regions.values.detach().float(), regions.offsets)
    exact = said(branch, single).loss
    with torch.autocast("cpu", dtype):
        found = said(branch, single)
    assert found.log_probs.dtype == torch.float32
    torch.testing.assert_close(found.loss, exact, atol=0.02, rtol=0.02)


def test_the_weights_of_its_ends_start_as_xavier_normal() -> None:
    torch.manual_seed(0)
    branch = Captioner(vocab_size=300, width=200, hidden=100, word_dim=50, bidirectional=False, dropout=0.2)
    for layer in (branch.regions, branch.out):
        wanted = (2 / sum(layer.weight.shape)) ** 0.5
        assert abs(float(layer.weight.detach().std()) / wanted - 1) < 0.03
    assert abs(float(branch.words.weight.detach().std()) - 1) < 0.03
