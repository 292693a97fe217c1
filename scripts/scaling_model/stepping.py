"""Real updates of the real trainer, one by one: how long each took, what it computed, and what it sent."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from config.schema import Run
from scripts.scaling_model.counting import Counted, Sent
from train.assembly.recipe import build_recipe
from train.distributed.comm import Comm
from train.loop.batch_regime import BatchRegime
from train.loop.pool_regime import PoolRegime
from train.loop.regime import Regime
from train.loop.trainer import Trainer
from train.metrics.journal import Journal

REGIMES: tuple[type[Regime], ...] = (PoolRegime, BatchRegime)


@dataclass(frozen=True)
class Update:
    """One update of this rank.

    Attributes:
        seconds: on the clock.
        sent: its collectives.
        operations: of matrix products, multiply and add counted apart; 0 where nobody counted.
        passes: parts it was made in, of which only the last one's backward sends gradients.
    """

    seconds: float
    sent: list[Sent]
    operations: int
    passes: int


class Enough(BaseException):
    """All the updates that were wanted are made; nothing is wrong, and nothing is to be saved."""


def made_updates(
    run: Run, comm: Comm, wanted: int, folder: Path, between: Callable[[int], None] | None = None, count: bool = False
) -> list[Update]:
    """Train for `wanted` updates after a first one, which warms up; nothing is written to `folder`.

    Args:
        between: called before update 0, 1, ... outside of every measured time.
        count: count operations too, which slows the updates down; not where pools are scored in inference mode.
    """
    counted, found = Counted(comm), list[Update]()
    recipe = build_recipe(run, counted)
    regime = next(kind for kind in REGIMES if recipe.objective.needs & kind.offers)(recipe)
    since, counter = 0.0, FlopCounterMode(display=False) if count else None
    computed = 0

    def stepped(*_: Any) -> None:
        nonlocal since, computed
        now, sent = time.perf_counter(), counted.taken()
        total = counter.get_total_flops() if counter else 0
        if since:
            found.append(Update(now - since, sent, total - computed, regime.passes))
        if len(found) == wanted:
            raise Enough
        if between:
            between(len(found))
        since, computed = time.perf_counter(), total

    # The optimizer's own hook: the end of an update, however the trainer comes to it.
    recipe.optimizer.register_step_post_hook(stepped)
    trainer = Trainer(regime, Journal(None, comm.rank, talk=io.StringIO()), folder)
    try:
        with counter or nullcontext():
            trainer.fit(None)
    except Enough:
        return found
    raise AssertionError("the run ended before its updates were made")
