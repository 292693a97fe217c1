"""Unit rows, rectangles, GRUs, batch norm over ranks, and dropout that knows whom it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from data.batches.batch import Ragged
from model.parts.layers import (
    BatchNorm,
    keyed_dropout,
    keyed_dropout_mask,
    l2norm,
    pack_padded,
    pad_ragged,
    run_gru,
    top_mask,
)

LENGTHS = [3, 1, 5, 3]


def ragged_of(lengths: list[int], width: int = 4, seed: int = 0) -> Ragged:
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), width, generator=source, dtype=torch.float64)
    return Ragged.of(values.requires_grad_(), torch.tensor(lengths))


def items(ragged: Ragged) -> list[Tensor]:
    return list(ragged.values.split(ragged.lengths.tolist()))


def test_rows_are_divided_by_their_norm_and_zeros_stay() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    assert torch.equal(l2norm(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    l2norm(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(l2norm(x, eps=5.0)[0], torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(l2norm(x, dim=0), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_norms_of_half_precision_do_not_overflow() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)
    found = l2norm(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((1, 4), 0.5))


def test_equal_lengths_are_viewed_not_copied() -> None:
    ragged = ragged_of([3, 3])
    values, mask = pad_ragged(ragged)
    assert mask is None
    assert values.shape == (2, 3, 4)
    assert values.data_ptr() == ragged.values.data_ptr() == pack_padded(values, ragged.offsets).values.data_ptr()


def test_rectangles_are_zero_beside_the_rows_and_lead_back() -> None:
    ragged = ragged_of(LENGTHS)
    values, mask = pad_ragged(ragged)
    expected, where = ragged.padded()
    assert mask is not None
    assert torch.equal(values, expected)
    assert torch.equal(mask, where)
    assert torch.equal(pack_padded(values, ragged.offsets).values, ragged.values)
    pack_padded(2 * values, ragged.offsets).values.sum().backward()
    assert torch.equal(ragged.values.grad, torch.full_like(ragged.values, 2.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [LENGTHS, [3, 3, 3], [4]])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
def test_a_gru_meets_each_sequence_as_if_it_were_alone(lengths: list[int], layers: int, both: bool) -> None:
    torch.manual_seed(0)
    gru = nn.GRU(4, 6, layers, batch_first=True, bidirectional=both).double()
    ragged, single = ragged_of(lengths), ragged_of(lengths)
    outputs, last = run_gru(gru, ragged)
    alone = [gru(item[None])[0][0] for item in items(single)]
    torch.testing.assert_close(outputs.values, torch.cat(alone))
    assert torch.equal(outputs.offsets, ragged.offsets)
    ends = [torch.cat([out[-1, :6], out[0, 6:]]) for out in alone]
    torch.testing.assert_close(last, torch.stack(ends))
    cotangent = torch.randn(last.shape, dtype=torch.float64)
    (last * cotangent).sum().backward()
    (torch.stack(ends) * cotangent).sum().backward()
    torch.testing.assert_close(ragged.values.grad, single.values.grad)


@pytest.fixture
def norms() -> tuple[BatchNorm, nn.BatchNorm1d]:
    """Ours and torch's with the same weights."""
    torch.manual_seed(0)
    ours, theirs = BatchNorm(4).double(), nn.BatchNorm1d(4).double()
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.normal_())
        ours.bias.copy_(theirs.bias.normal_())
    return ours, theirs


def test_batch_norm_is_the_usual_one_forward_backward_and_in_its_buffers(
    norms: tuple[BatchNorm, nn.BatchNorm1d],
) -> None:
    found = []
    x = 3 + 2 * ragged_of([7]).values.detach()
    for norm in norms:
        leaf = x.clone().requires_grad_()
        out = norm(norm(leaf))
        (out * x.cos()).sum().backward()
        out_eval = norm.eval()(x)
        found.append([out, leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var, out_eval])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_batch_norm_has_the_usual_names_and_counts_its_batches(norms: tuple[BatchNorm, nn.BatchNorm1d]) -> None:
    ours, theirs = norms
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for norm in norms:
        norm.train()(torch.randn(4, len(ours.bias), dtype=ours.bias.dtype))
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 1


def test_batch_norm_over_unequal_shards_is_that_over_the_whole(norms: tuple[BatchNorm, nn.BatchNorm1d]) -> None:
    """Both shards advance in step: what one asks to sum is kept until the other asks the same."""
    ours, theirs = norms
    x = ragged_of([7]).values.detach().requires_grad_()
    whole = theirs(x)
    first, second = x[:5], x[5:]
    rows = [torch.cat([part.sum(0), part.new_full((1,), len(part))]) for part in (first, second)]
    mean = (rows[0] + rows[1])[:-1] / 7
    squares = [(part - mean).square().sum(0) for part in (first, second)]
    parts = []
    for part, others in ((first, [rows[1], squares[1]]), (second, [rows[0], squares[0]])):
        waiting = iter(others)
        ours.total = lambda mine, waiting=waiting: mine + next(waiting)  # type: ignore[misc]
        ours.running_mean.zero_()
        ours.running_var.fill_(1.0)
        parts.append(ours(part))
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    cotangent = torch.randn(whole.shape, dtype=torch.float64)
    mine = torch.autograd.grad((torch.cat(parts) * cotangent).sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(mine, torch.autograd.grad((whole * cotangent).sum(), x)[0])


def test_batch_norm_of_one_row_is_finite_and_remembers_nothing(norms: tuple[BatchNorm, nn.BatchNorm1d]) -> None:
    ours, _ = norms
    x = torch.randn(1, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], ours.bias)
    assert torch.equal(ours.running_mean, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(ours.running_var, torch.ones(4, dtype=torch.float64))


def test_batch_norm_of_half_precision_counts_in_single() -> None:
    x = torch.full((70_000, 1), 2.0, dtype=torch.float16)
    x[::2] = 4.0
    norm = BatchNorm(1)
    out = norm(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[:2, 0], torch.tensor([1.0, -1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3]), atol=1e-4, rtol=0)


KEYS = torch.tensor([5, -(2**62), 7, 0])
SHAPE = torch.Size([4, 300, 20])


def test_dropout_keeps_the_mean_and_passes_what_it_keeps() -> None:
    x = torch.ones(SHAPE, requires_grad=True)
    out = keyed_dropout(x, 0.2, KEYS, stream=1)
    kept = out != 0
    assert abs(float(kept.float().mean()) - 0.8) < 0.01
    assert ((kept.float().mean((1, 2)) - 0.8).abs() < 0.02).all()
    assert torch.equal(out[kept], torch.full_like(out[kept], 1.25))
    out.sum().backward()
    assert torch.equal(x.grad, out)  # type: ignore[arg-type]


def test_no_dropout_is_no_work() -> None:
    x = torch.ones(4, 3)
    assert keyed_dropout(x, 0.0, KEYS, stream=1) is x


def test_an_items_dropout_knows_nothing_of_its_company_or_its_padding() -> None:
    whole = keyed_dropout_mask(SHAPE, 0.5, KEYS, stream=1)
    order = torch.tensor([2, 0])
    assert torch.equal(keyed_dropout_mask(torch.Size([2, 300, 20]), 0.5, KEYS[order], stream=1), whole[order])
    assert torch.equal(keyed_dropout_mask(torch.Size([4, 200, 20]), 0.5, KEYS, stream=1), whole[:, :200])


def test_draws_of_keys_streams_and_places_are_independent() -> None:
    """Agreement of two fair independent coins is one half; 6000 tosses lie within 0.03 of it."""
    def agreement(a: Tensor, b: Tensor) -> float:
        return float((a == b).float().mean())

    one, two = (keyed_dropout_mask(SHAPE, 0.5, KEYS, stream) for stream in (1, 2))
    assert all(abs(agreement(one[k], two[k]) - 0.5) < 0.03 for k in range(4))
    assert all(abs(agreement(one[k], one[j]) - 0.5) < 0.03 for k in range(4) for j in range(k))
    near = keyed_dropout_mask(torch.Size([3, 6000]), 0.5, torch.arange(3), 0)
    assert all(abs(agreement(near[k, step:], near[j, : 6000 - step]) - 0.5) < 0.03
               for step in (0, 1, 20) for k in range(3) for j in range(3) if step or k != j)


def test_dropout_is_the_same_on_every_machine() -> None:
    """SplitMix64 with wrapping integers: these numbers may not move, or a resumed run would."""
    drops = keyed_dropout_mask(torch.Size([2, 24]), 0.5, torch.tensor([1, 2]), stream=3)
    found = ["".join("x" if drop else "." for drop in row) for row in drops.tolist()]
    assert found == reference(24)


def reference(count: int) -> list[str]:
    """The same draws in plain integers modulo 2^64."""
    golden, every = 0x9E3779B97F4A7C15, 2**64 - 1

    def mixed(x: int) -> int:
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & every
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & every
        return x ^ x >> 31

    def row(key: int) -> str:
        seed = mixed((key + 3 * golden) & every)
        draws = [mixed((seed + place * golden) & every) for place in range(1, count + 1)]
        return "".join("x" if (draw >> 40) < 2**23 else "." for draw in draws)

    return [row(key) for key in (1, 2)]


def test_of_equal_scores_the_lower_index_is_kept() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    kept = top_mask(scores, 3)
    assert kept.tolist() == [[False, True, True, True, False, False], [True, True, True, False, False, False]]
