"""Training steps as functions: a batch in, losses out, without ranks, files or schedules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data.batches.batch import Batch
from model.matcher import Matcher
from model.objective import Objective, Term
from train.scoring.autocast import Autocast


def hardest_negatives(scores: Tensor, keep: int) -> Tensor:
    """Columns of the `keep` highest-scoring negatives of each anchor.

    Args:
        scores: `[anchors, 1 + negatives]`, the matching pair in column 0.

    Returns:
        `[anchors, keep]` int64, ascending in each row, all at least 1.
    """
    return scores[:, 1:].topk(keep, dim=1).indices.sort(dim=1).values + 1


def mine_hard_negatives(matcher: Matcher, batch: Batch, keep: int, autocast: Autocast) -> tuple[Batch, Tensor]:
    """The batch cut to each anchor's match and `keep` hardest negatives, and the scores that chose them.

    The pools are scored in evaluation mode without gradient by the current weights (Chen et al. 2020, section 4).
    """
    matcher.eval()
    with torch.inference_mode(), autocast():
        scores = next(iter(matcher(batch).scores.values())).float()
    matcher.train()
    columns = hardest_negatives(scores, keep).cpu()
    return batch.hardest(torch.nn.functional.pad(columns, (1, 0))), scores


def keep_random_negatives(batch: Batch, keep: int) -> Batch:
    """The batch cut to each anchor's match and the first `keep` negatives of its pool, which are random ones."""
    assert batch.pool is not None
    return batch.hardest(torch.arange(keep + 1).expand(len(batch.pool.image), -1))


@dataclass(frozen=True)
class Losses:
    """What a pass adds to the loss of its update, the terms behind it for the log, and its scores."""

    total: Tensor
    terms: dict[str, Term]
    scores: Tensor


def compute_losses(
    matcher: Matcher, objective: Objective, batch: Batch, progress: float, autocast: Autocast, anchors: float
) -> Losses:
    """Training-mode forward of a batch and its objective.

    Args:
        progress: how much of the run is done, 0 to 1.
        anchors: those that an update takes of this direction on a rank (their mean, where ranks differ).
    """
    with autocast():
        out = matcher(batch, objective.needs)
    terms = objective(out, batch, progress) | {name: Term(value) for name, value in out.aux.items()}
    scores = next(iter(out.scores.values())).detach()
    parts = [term.share(len(scores), anchors) for term in terms.values()]
    return Losses(torch.stack(parts).sum(), terms, scores)
