"""Differentiable collectives: many ranks compute what one process would."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.batches.batch import Ragged
from model.matcher import Matcher, Side
from model.parts.layers import BatchNorm
from train.distributed.comm import Comm


class AllReduceSum(torch.autograd.Function):
    """The sum over ranks; each rank uses it for its own part of the loss, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, comm: Comm, name: str) -> Tensor:
        ctx.comm, ctx.name = comm, name
        return comm.sum(part, name)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.comm.sum(grad, f"{ctx.name}.grad"), None, None


class AllGatherRows(torch.autograd.Function):
    """The rows of all ranks, in their order.

    `shared`: what is computed of them is computed by every rank alike, so that each has the whole gradient of its own
    rows. Otherwise each rank computes another part of the loss with them, and gradients are summed.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, comm: Comm, name: str, shared: bool) -> Tensor:
        lengths = comm.gather(torch.tensor([len(rows)]), f"{name}.rows").tolist()
        ctx.comm, ctx.name, ctx.shared = comm, name, shared
        ctx.own = slice(sum(lengths[: comm.rank]), sum(lengths[: comm.rank + 1]))
        return comm.gather(rows, name)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        grad = grad if ctx.shared else ctx.comm.sum(grad, f"{ctx.name}.grad")
        return grad[ctx.own], None, None, None


def all_reduce_sum(part: Tensor, comm: Comm, name: str) -> Tensor:
    """The sum of `part` over ranks, with gradient (see `AllReduceSum`)."""
    return AllReduceSum.apply(part, comm, name)


def all_gather_rows(rows: Tensor, comm: Comm, name: str, shared: bool = False) -> Tensor:
    """`rows [n, ...]` of all ranks (see `AllGatherRows`); itself where there is one."""
    return rows if comm.size == 1 else AllGatherRows.apply(rows, comm, name, shared)


def all_gather_side(side: Side, comm: Comm, name: str) -> Side:
    """The items of all ranks as one side; every rank scores others of them."""
    if comm.size == 1:
        return side
    tokens, pooled = side.tokens, side.pooled
    if pooled is not None:
        return Side(pooled=all_gather_rows(pooled, comm, f"{name}.pooled"))
    assert tokens is not None
    lengths = comm.gather(tokens.lengths, f"{name}.lengths")
    return Side(Ragged.of(all_gather_rows(tokens.values, comm, f"{name}.tokens"), lengths))


def synchronise_norms(matcher: Matcher, comm: Comm) -> None:
    """Let every batch normalisation see the rows of all ranks."""
    if comm.size == 1:
        return
    for name, module in matcher.named_modules():
        if isinstance(module, BatchNorm):
            module.total = partial(all_reduce_sum, comm=comm, name=f"norm.{name}")
