"""Training on pools: score a pool without gradient, keep the hardest negatives, train on them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from config.errors import ConfigError
from data.batches.batch import Batch
from data.batches.hard_pools import DIRECTIONS, HardPools
from data.batches.plan import Plan, PoolPlan
from data.batches.prefetch_buffer import Capacity
from data.draws import key
from train.assembly.recipe import Recipe
from train.loop.collapse import CollapseDetector, suggest_gentler
from train.loop.false_negatives import find_false_negatives
from train.loop.regime import Pass, Regime
from train.loop.step import compute_losses, keep_random_negatives, mine_hard_negatives
from train.metrics.clock import Clock


class PoolRegime(Regime):
    """Anchors of both directions in turn, `mining_batch` of one direction in each pass."""

    offers = frozenset({"pools"})

    def __init__(self, recipe: Recipe) -> None:
        """Raises ConfigError or DataError where the run does not fit its stores."""
        super().__init__(recipe)
        run, negatives = self.run, self.run.negatives
        if negatives.offline:
            raise ConfigError(f"offline={negatives.offline}: pools draw their own; leave it out, or train with itm.py")
        index = recipe.train.index
        false_negatives = find_false_negatives(index, run)
        self.pools = HardPools(index, negatives.negative_size, run.data.max_txt_len, run.seed, false_negatives)
        self.anchors = self.pools.anchors
        self.parts = self.anchors_per_update // negatives.mining_batch
        self.passes = 2 * len(range(self.comm.rank, self.parts, self.comm.size))
        self.collapse = CollapseDetector(run, 1 / (1 + negatives.negative_size), suggest_gentler(
            run.objective, "a loss that does not come to rest there (--objective infonce), negatives that are drawn at "
            f"first (--mine_after {max(1, run.optim.num_train_steps // 10)})"))  # fmt: skip
        most = negatives.mining_batch * (1 + negatives.negative_size)
        self.capacity = Capacity.of(index, most, most)
        self.check(self.anchors)

    def plans(self, first_slot: int) -> Iterator[PoolPlan]:
        sizes = self.anchors_per_update, self.run.negatives.mining_batch
        return self.pools.plans(first_slot, *sizes, self.comm.rank, self.comm.size)

    def losses(self, plan: Plan, batch: Batch, step: int, clock: Clock) -> Pass:
        assert isinstance(plan, PoolPlan)
        run, recipe, direction = self.run, self.recipe, plan.direction
        with clock("mine"):
            hard, mined = self._chosen(batch, step)
        with clock("train"):
            # Dropout is a draw like any other: keyed by what it is drawn for.
            torch.manual_seed(key(run.seed, f"dropout-{direction}", plan.slot) % 2**63)
            progress, anchors = step / run.optim.num_train_steps, self.anchors_each
            losses = compute_losses(
                recipe.matcher, recipe.objective, hard, progress, recipe.precision.autocast, anchors
            )
        scores = losses.scores if mined is None else mined
        share = len(scores) / anchors
        logged = {"loss": losses.total.detach()}
        for name, term in losses.terms.items():
            logged[f"{name}_{direction}"] = term.value.detach() * share
            if term.weight is not None:
                logged[f"{name}_weighted_{direction}"] = term.share(len(scores), anchors).detach()
        ahead = scores[:, 0] > scores[:, 1:].amax(1)
        logged[f"pool_r1_{direction}"] = ahead.float().mean() * share
        return Pass(losses.total, logged, len(scores), scores.numel())

    def warning(self, step: int, values: dict[str, float]) -> str:
        plateaus = {f"{name}_{way}": cost for name, cost in self.plateaus(step).items() for way in DIRECTIONS}
        paid = {name: values[name] for name in plateaus}
        return self.collapse.warning(step, paid, plateaus, (values["pool_r1_i"] + values["pool_r1_t"]) / 2)

    def headline(self, values: dict[str, float]) -> dict[str, float]:
        return {"pool R@1": (values["pool_r1_i"] + values["pool_r1_t"]) / 2}

    def _chosen(self, batch: Batch, step: int) -> tuple[Batch, Tensor | None]:
        """The batch to train on: hard negatives and the scores that chose them, or random ones early in the run."""
        negatives = self.run.negatives
        if step < negatives.mine_after:
            return keep_random_negatives(batch, negatives.hard_neg_size), None
        return mine_hard_negatives(self.recipe.matcher, batch, negatives.hard_neg_size, self.recipe.precision.autocast)
