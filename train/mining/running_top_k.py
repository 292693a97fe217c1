"""The running top k of some queries over tiles of screened scores.

A tile is read once and quickly: the largest of every few scores is compared with the query's floor, and only where
it passes are those few looked at. The floor is a bet: what is among the best m of a share f of the pool will,
nearly surely, hold the best k of the whole if m is somewhat above k f (`rank_at`). Whether it came true is seen at
the end; queries that lost their bet, or whose list overflowed with equals, are searched again in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor

from train.mining.exact import Shortlists
from train.mining.screen import LOWEST, Slack

GROUP = 16
"""Scores of which only the largest is compared."""
SPREAD = 4.0
"""How many standard deviations a bet is on the safe side."""
ENOUGH = 3
"""The m-th largest of this many times m groups is hardly less than the m-th largest of all."""


def rank_at(most: int, share: float) -> int:
    """Which of a share of the pool, counted from the best, lies safely below the best `most` of all of it."""
    expected = most * share
    return min(most, max(1, ceil(expected + SPREAD * sqrt(expected) + SPREAD)))


@dataclass
class RunningTopK:
    """Lists of at most `capacity` candidates.

    Attributes:
        values, chosen: `[queries, capacity]`, screened scores and names, in no order.
        counts: `[queries]`, how many of a row are there.
        floor: `[queries]`, below which nothing is kept; infinite for a query that has overflowed.
        started: whether the floors have been set.
    """

    values: Tensor
    chosen: Tensor
    counts: Tensor
    floor: Tensor
    slack: Slack
    sure: Tensor | None = None
    over: Tensor | None = None
    started: bool = False

    @classmethod
    def empty(cls, capacity: int, slack: Slack, ceiling: Tensor | None) -> RunningTopK:
        """No candidates yet; `ceiling [queries]` is the highest true score, on the screen's scale, that counts."""
        size, device = len(slack.fixed), slack.fixed.device
        values, floor = torch.empty(size, capacity, device=device), torch.full((size,), LOWEST, device=device)
        chosen = torch.empty(size, capacity, dtype=torch.int32, device=device)
        counts = torch.zeros(size, dtype=torch.int64, device=device)
        bars = (None, None) if ceiling is None else ceiling_bounds(ceiling, slack)
        return cls(values, chosen, counts, floor, slack, *bars)

    @property
    def capacity(self) -> int:
        return self.values.shape[1]

    def absorb(self, scores: Tensor, first: int, step: int, rank: int) -> None:
        """Take what passes the floor from `scores [queries, p]`, whose columns are called first, first + step, ...

        Args:
            scores: of any strides; p is a multiple of `GROUP`. What is -inf is no candidate.
            rank: which of a query's candidates, this tile's included, its floor may be (see `rank_at`).
        """
        if self.over is not None:
            scores = scores.masked_fill(scores > self.over[:, None], -torch.inf)
        if not self.started:
            self._start(scores, rank)
        groups = scores.unflatten(1, (GROUP, -1))
        query, group = self._passing(group_maxima(groups))
        few = groups[query, :, group].float()
        hit, member = (few >= self.floor[query, None]).nonzero().unbind(1)
        query, place, values = query[hit], member * groups.shape[2] + group[hit], few[hit, member]
        if scores.stride(0) < scores.stride(1):
            query, order = query.sort(stable=True)
            place, values = place[order], values[order]
        self._append(query, values, place * step + first, rank)

    def _passing(self, peaks: Tensor) -> tuple[Tensor, Tensor]:
        """(query, group) of the groups whose largest score passes, in the order of memory: reading is quick so."""
        passing = peaks.float() >= self.floor[:, None]
        if passing.stride(0) < passing.stride(1):
            group, query = passing.T.nonzero().unbind(1)
        else:
            query, group = passing.nonzero().unbind(1)
        return query, group

    def _start(self, scores: Tensor, rank: int) -> None:
        """Set the floors from the first tile; by the largest of ever larger groups, as long as those are many."""
        self.started = True
        if self.sure is not None:
            scores = scores.masked_fill(scores > self.sure[:, None], -torch.inf)
        while scores.shape[1] % GROUP == 0 and scores.shape[1] // GROUP >= ENOUGH * rank:
            scores = group_maxima(scores.unflatten(1, (GROUP, -1)))
        if scores.shape[1] >= rank:
            best = scores.float().contiguous().topk(rank, sorted=False).values.amin(1)
            self.floor = self.slack.floor(best)

    def _append(self, query: Tensor, values: Tensor, names: Tensor, rank: int) -> None:
        """Add candidates, ascending in `query`."""
        added = torch.bincount(query, minlength=len(self.counts))
        full = (self.counts + added > self.capacity).nonzero().squeeze(1)
        if len(full):
            self.tighten(rank, full)
            kept = values >= self.floor[query]
            query, values, names = query[kept], values[kept], names[kept]
            added = torch.bincount(query, minlength=len(self.counts))
            still = self.counts + added > self.capacity
            self.floor[still] = torch.inf
            kept = ~still[query]
            query, values, names = query[kept], values[kept], names[kept]
            added[still] = 0
        before = added.cumsum(0) - added
        place = torch.arange(len(query), device=query.device) + (self.counts - before)[query]
        self.values[query, place], self.chosen[query, place] = values, names.int()
        self.counts += added

    def tighten(self, rank: int, queries: Tensor | None = None) -> None:
        """Raise the floors of `queries` (all) to their `rank`-th best and forget what is below."""
        if queries is None:
            queries = torch.arange(len(self.counts), device=self.counts.device)
        width = int(self.counts[queries].max()) if len(queries) else 0
        if width < rank:
            return
        values = self._filled(queries, width)
        counted = self._counted(values, queries)
        best = counted.topk(rank, sorted=False).values.amin(1)
        floor = torch.maximum(self.floor[queries], self.slack.of(queries).floor(best))
        self.floor[queries] = floor
        row, column = (values >= floor[:, None]).nonzero().unbind(1)
        kept = torch.bincount(row, minlength=len(queries))
        place = torch.arange(len(row), device=row.device) - (kept.cumsum(0) - kept)[row]
        query = queries[row]
        chosen = self.chosen[query, column]
        self.values[query, place], self.chosen[query, place] = values[row, column], chosen
        self.counts[queries] = kept

    def finish(self, wanted: Tensor) -> tuple[Shortlists, Tensor, Tensor]:
        """What may be among the best `wanted [queries]`, the screened scores, and the queries that must be redone.

        Those have empty lists.
        """
        most = int(wanted.max())
        everyone = torch.arange(len(self.counts), device=self.counts.device)
        values = self._filled(everyone, max(min(most, self.capacity), int(self.counts.max())))
        values = torch.nn.functional.pad(values, (0, max(0, most - self.capacity)), value=-torch.inf)
        last = nth_largest(self._counted(values, everyone), wanted)
        bar = self.slack.floor(last)
        redo = (last == -torch.inf) | (bar < self.floor) & (self.floor > LOWEST)
        redo &= wanted > 0
        bar = bar.masked_fill(redo | (wanted == 0), torch.inf)
        row, column = (values >= bar[:, None]).nonzero().unbind(1)
        counts = torch.bincount(row, minlength=len(values))
        return Shortlists.of(counts, self.chosen[row, column].long()), values[row, column], redo.nonzero().squeeze(1)

    def packed(self) -> dict[str, Tensor]:
        """What there is, without the empty places."""
        there = torch.arange(self.capacity, device=self.counts.device) < self.counts[:, None]
        known = {"counts": self.counts, "floor": self.floor, "values": self.values[there], "chosen": self.chosen[there]}
        return known | {"started": torch.tensor(self.started)}

    def unpack(self, packed: Mapping[str, Tensor], prefix: str) -> None:
        """Become what was `packed` under names with this prefix."""
        device = self.counts.device
        self.counts, self.floor = (packed[f"{prefix}{name}"].to(device, copy=True) for name in ("counts", "floor"))
        there = torch.arange(self.capacity, device=device) < self.counts[:, None]
        self.values[there], self.chosen[there] = (packed[f"{prefix}{name}"].to(device) for name in ("values", "chosen"))
        self.started = bool(packed[f"{prefix}started"])

    def _filled(self, queries: Tensor, width: int) -> Tensor:
        """`[queries, width]`, -inf where there is nothing."""
        column = torch.arange(width, device=self.values.device)
        values = self.values[:, :width] if len(queries) == len(self.values) else self.values[queries, :width]
        return values.masked_fill(column >= self.counts[queries, None], -torch.inf)

    def _counted(self, values: Tensor, queries: Tensor) -> Tensor:
        """The values with -inf for those that may yet turn out to lie above the ceiling."""
        return values if self.sure is None else values.masked_fill(values > self.sure[queries, None], -torch.inf)


def nth_largest(values: Tensor, wanted: Tensor) -> Tensor:
    """The `wanted [rows]`-th largest of each row, from 1; of rows that want none, any."""
    most = int(wanted.max())
    if bool((wanted == most).all()):
        return values.topk(most, sorted=False).values.amin(1)
    return values.topk(most).values.gather(1, (wanted - 1).clamp(min=0)[:, None]).squeeze(1)


def ceiling_bounds(ceiling: Tensor, slack: Slack) -> tuple[Tensor, Tensor]:
    """Screened scores up to which a candidate is truly below the ceiling, and above which it truly is not."""
    ceiling = ceiling.float()
    doubt = 1.02 * (slack.fixed + slack.share * ceiling.abs()) + 1e-6 * ceiling.abs()
    return ceiling - doubt, ceiling + doubt


def group_maxima(groups: Tensor) -> Tensor:
    """`[queries, groups]` of `[queries, members, groups]`, laid out in memory like it, which is what makes it quick."""
    size = groups.shape[0], groups.shape[2]
    across = groups.stride(0) < groups.stride(2)
    peaks = groups.new_empty(size[::-1]).T if across else groups.new_empty(size)
    return torch.amax(groups, 1, out=peaks)
