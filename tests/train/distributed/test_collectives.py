"""train/distributed/collectives.py: rows, sums and their gradients over ranks, against one computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from data.batches.batch import Ragged
from model.matcher import Side
from model.parts.layers import BatchNorm
from tests.ranks import on_ranks
from tests.samples import small
from train.distributed.collectives import all_gather_rows, all_gather_side, all_reduce_sum, synchronise_norms
from train.distributed.comm import Comm, Solo

ROWS = [3, 1, 2]
"""How many rows each of three ranks has."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaves(values: Tensor) -> list[Tensor]:
    """The rows of each rank, as the start of a graph of its own."""
    return [part.clone().requires_grad_() for part in values.split(ROWS)]


def gradient(parts: list[Tensor]) -> Tensor:
    """That of all ranks' rows."""
    return torch.cat([part.grad for part in parts if part.grad is not None])


def cost(rows: Tensor) -> Tensor:
    """Of all rows together; every row's gradient depends on every other row."""
    return (rows @ rows.T).softmax(1).square().sum() + rows.pow(3).sum()


def test_rows_used_alike_by_all_ranks_have_their_whole_gradient_on_their_own() -> None:
    values = random(6, 4)
    parts, whole = leaves(values), values.clone().requires_grad_()

    def work(comm: Comm) -> Tensor:
        rows = all_gather_rows(parts[comm.rank], comm, "rows", shared=True)
        cost(rows).backward()
        return rows.detach()

    assert all(torch.equal(rows, values) for rows in on_ranks(3, work))
    cost(whole).backward()
    torch.testing.assert_close(gradient(parts), whole.grad)


def test_rows_used_differently_by_the_ranks_have_the_sum_of_their_gradients() -> None:
    values, weights = random(6, 4), random(3, 6, seed=1)
    parts, whole = leaves(values), values.clone().requires_grad_()

    def work(comm: Comm) -> None:
        rows = all_gather_rows(parts[comm.rank], comm, "rows")
        (weights[comm.rank] @ rows.square()).sum().backward()

    on_ranks(3, work)
    (weights.sum(0) @ whole.square()).sum().backward()
    torch.testing.assert_close(gradient(parts), whole.grad)


def test_a_sum_over_ranks_gives_every_part_the_gradient_of_all() -> None:
    """Each rank normalises its rows by the mean of everyone's, as a batch norm does."""
    values = random(6, 4)
    parts, whole = leaves(values), values.clone().requires_grad_()

    def work(comm: Comm) -> Tensor:
        own = parts[comm.rank]
        total = all_reduce_sum(own.square().sum(0), comm, "sum")
        (own.pow(3) / total).sum().backward()
        return total.detach()

    totals = on_ranks(3, work)
    (whole.pow(3) / whole.square().sum(0)).sum().backward()
    assert all(torch.allclose(total, values.square().sum(0)) for total in totals)
    torch.testing.assert_close(gradient(parts), whole.grad)


@pytest.mark.parametrize("kind", ["pooled", "tokens"])
def test_a_side_of_all_ranks_is_scored_in_other_parts_by_each(kind: str) -> None:
    """Rank r scores its own images, which it weighs by r + 1, against everyone's texts."""
    lengths = torch.tensor([2, 1, 3, 1, 4, 2])
    values = random(int(lengths.sum()) if kind == "tokens" else 6, 4)
    starts = torch.tensor([0, 6, 7, len(values)] if kind == "tokens" else [0, 3, 4, 6])
    parts = [part.clone().requires_grad_() for part in values.split(starts.diff().tolist())]

    def side(rank: int) -> Side:
        if kind == "pooled":
            return Side(pooled=parts[rank])
        return Side(Ragged.of(parts[rank], lengths.split(ROWS)[rank]))

    def work(comm: Comm) -> Side:
        everyone = all_gather_side(side(comm.rank), comm, "texts")
        rows = everyone.pooled if everyone.tokens is None else everyone.tokens.values
        assert rows is not None
        ((comm.rank + 1) * rows.pow(2)).sum().backward()
        return everyone

    for everyone in on_ranks(3, work):
        assert len(everyone) == 6
        rows = everyone.pooled if everyone.tokens is None else everyone.tokens.values
        assert rows is not None
        assert torch.equal(rows.detach(), values)
        assert everyone.tokens is None or everyone.tokens.lengths.tolist() == lengths.tolist()
    torch.testing.assert_close(gradient(parts), 6 * 2 * values)


def test_alone_everything_is_itself() -> None:
    rows, side = random(2, 3), Side(pooled=random(2, 3))
    assert all_gather_rows(rows, Solo(), "rows") is rows
    assert all_gather_side(side, Solo(), "side") is side
    matcher = small("vsrn")
    synchronise_norms(matcher, Solo())
    values = random(2, 3)
    assert all(norm.total(values) is values for norm in matcher.modules() if isinstance(norm, BatchNorm))


def test_norms_see_the_rows_of_all_ranks() -> None:
    """Outputs, gradients and running statistics of every norm of a matcher are those of one rank with all rows."""
    values, weights = random(6, 16).float(), random(6, 16, seed=1).float()
    alone = small("vsrn", variant="F").train()
    copies = [small("vsrn", variant="F").train() for _ in ROWS]
    whole, parts = values.clone().requires_grad_(), leaves(values)

    def norms(matcher: torch.nn.Module) -> list[BatchNorm]:
        found = [module for module in matcher.modules() if isinstance(module, BatchNorm)]
        for norm in found:
            torch.nn.init.constant_(norm.weight, 1.5)
        return found

    def work(comm: Comm) -> Tensor:
        matcher = copies[comm.rank]
        synchronise_norms(matcher, comm)
        out = torch.stack([norm(parts[comm.rank]) for norm in norms(matcher)])
        (out * weights.split(ROWS)[comm.rank]).sum().backward()
        return out.detach()

    outs = torch.cat(on_ranks(3, work), 1)
    expected = torch.stack([norm(whole) for norm in norms(alone)])
    (expected * weights).sum().backward()
    assert len(expected) == 5
    torch.testing.assert_close(outs, expected.detach())
    torch.testing.assert_close(gradient(parts), whole.grad)
    for copy in copies:
        for name, buffer in alone.named_buffers():
            torch.testing.assert_close(copy.state_dict()[name], buffer, msg=name)
