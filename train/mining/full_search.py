"""A full float32 search for the few queries whose running top k overflowed or lost an entry."""

from __future__ import annotations

import torch
from torch import Tensor

from data.batches.pairs import Array
from train.mining.running_top_k import ceiling_bounds, nth_largest
from train.mining.screen import Screen, Slack
from train.mining.tile_layout import ScreenedSide

Entries = tuple[Tensor, Tensor, Tensor, Tensor]
"""(query, candidate, lower, upper): the exact score is between the two bounds, on the screen's scale."""


def search_fully(
    queries: ScreenedSide,
    pool: ScreenedSide,
    names: Array,
    barred: tuple[Array, Array],
    wanted: Tensor,
    ceiling: Tensor | None,
) -> Entries:
    """What may be among the best `wanted [q]` of the queries called `names [q]`; a query is called 0 .. q - 1 here.

    Args:
        barred: (query, candidate) of pairs that are no candidates.
        ceiling: `[q]`, the highest score that counts, on the screen's scale.
    """
    screen, cut = pool.screen, pool.cut
    single = Screen("float32", screen.device, screen.image_scale, screen.text_scale)
    chosen = torch.from_numpy(names)
    left = queries.values[chosen].to(screen.device).float() * queries.scale
    scores = torch.empty(len(names), cut.size, device=screen.device)
    for part in range(cut.parts):
        rows = cut.rows(part)
        scores[:, rows.start - cut.start :: cut.parts] = single.product(left, pool.taken(rows) * pool.scale)
    query, candidate = (torch.from_numpy(side).to(screen.device) for side in barred)
    scores[query, candidate - cut.start] = -torch.inf
    slack = single.slack(queries.unrounded.of(chosen.to(screen.device)), pool.unrounded, left.shape[1])
    counted = scores
    if ceiling is not None:
        sure, over = ceiling_bounds(ceiling, slack)
        scores.masked_fill_(scores > over[:, None], -torch.inf)
        counted = scores.masked_fill(scores > sure[:, None], -torch.inf)
    bar = slack.floor(nth_largest(counted, wanted))
    bar = bar.masked_fill(wanted == 0, torch.inf)
    query, place = (scores >= bar[:, None]).nonzero().unbind(1)
    values = scores[query, place]
    whose: Slack = slack.of(query)
    return query, place + cut.start, whose.below(values), whose.above(values)
