"""The loop: accumulate, reduce, clip, schedule, log, evaluate, save, stop; nothing else."""

from __future__ import annotations

import math
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.errors import INTERRUPTED, REQUEUE, DataError, Failure
from data.batch import Batch
from data.plan import Plan
from model import adapt
from train.checkpoint import Checkpoints, read_facts, read_state, read_weights
from train.clock import Clock
from train.comm import Wait
from train.journal import Journal
from train.measure import measure, quick_check
from train.optim import clip, learning_rate, set_learning_rate, stepped_twice
from train.reducer import GradientReducer
from train.regime import Regime
from train.skips import Skips
from train.splits import Split

Batches = Iterator[tuple[Plan, Batch]]


class Trainer:
    """Trains a recipe by its regime to its last step, going on from a checkpoint where there is one."""

    def __init__(self, regime: Regime, journal: Journal, folder: Path) -> None:
        self.regime, self.recipe, self.journal, self.folder = regime, regime.recipe, journal, folder
        recipe = self.recipe
        self.run, self.comm, self.matcher = recipe.run, recipe.comm, recipe.matcher
        self.checkpoints = Checkpoints(folder, self.run.output.keep)
        self.step, self.slot, self.best = 0, 0, -math.inf
        self.clock = Clock()
        self.skips = Skips(self.run.optim.most_skipped)
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=recipe.device))
        self.summed = 0
        self.costs: list[tuple[str, Tensor]] = []
        self.told: int | None = None
        self.stopped_by: int | None = None
        self.warned: set[str] = set()
        self.reducer = GradientReducer(self.comm, self.matcher.named_parameters(), self.run.optim.compression)

    def resume(self, folder: Path) -> None:
        """Go on exactly from a checkpoint.

        Raises:
            DataError: it is not whole, or of another model.
        """
        adapt.load(self.matcher, self.run.matcher.name, read_weights(folder))
        state = read_state(folder)
        self.recipe.optimizer.load_state_dict(state["optimizer"])
        self.recipe.precision.load_state_dict(state["scaler"])
        self.step, self.slot, self.best = state["step"], state["slot"], state["best"]
        self.sums.update({name: value.to(self.recipe.device) for name, value in state["sums"].items()})
        self.summed = state["summed"]
        self.skips.load_state_dict(state.get("skips", {}))
        trained_with = read_facts(folder).get("vocab_hash")
        if trained_with and self.recipe.train.vocab_hash not in (None, trained_with):
            raise DataError(f"{folder}: trained with another vocabulary than the training store's; use the same store")
        self.journal.say(f"going on from {folder} at step {self.step}")

    def fit(self, val: Split | None) -> int:
        """Train to the last step, or until told to stop; returns the exit code."""
        self._same_start()
        total = self.run.optim.num_train_steps
        facts = {"hash": self.run.hash(), "world": self.comm.size}
        parameters = sum(p.numel() for p in self.matcher.parameters() if p.requires_grad)
        self.journal.event("start", step=self.step, parameters=parameters, **facts)
        with self._signals():
            if self.step < total:
                self._updates(total, val)
            if self.stopped_by is None:
                self._ask_to_stop()()
        if self.stopped_by is None:
            return 0
        self.journal.say(f"told to stop by {signal.Signals(self.stopped_by).name}: saved at step {self.step}")
        return INTERRUPTED if self.stopped_by == signal.SIGINT else REQUEUE

    def _updates(self, total: int, val: Split | None) -> None:
        """Stretch after stretch of updates that the regime prepares."""
        while self.step < total and self.stopped_by is None:
            with self.clock.paused():
                until = self.regime.prepare(self.step, self.folder, self.journal)
            self._stretch(min(until, total), total, val)
            if self.step < total and self.stopped_by is None and not self._due(total):
                # What comes before the next stretch may take longer than a scheduler waits.
                with self.clock.paused():
                    self._validate_and_save(None)

    def _stretch(self, until: int, total: int, val: Split | None) -> None:
        """Update after update, with whatever is due in between."""
        loader = self.regime.loader(self.slot)
        batches = iter(loader)
        try:
            while self.step < until and self.stopped_by is None:
                self._update(batches)
                self._log(total)
                if self._due(total):
                    with self.clock.paused():
                        self._validate_and_save(val)
        finally:
            loader.close()

    def load_best(self) -> Path | None:
        """Put the best weights (the last ones where none was measured) into the model."""
        best = self.checkpoints.best() or self.checkpoints.latest()
        if best:
            adapt.load(self.matcher, self.run.matcher.name, read_weights(best))
        return best

    def _same_start(self) -> None:
        for name, tensor in self.matcher.state_dict().items():
            self.comm.broadcast_(tensor, f"start.{name}")

    def _update(self, batches: Batches) -> None:
        """One optimizer step over every rank's anchors."""
        run, recipe = self.run, self.recipe
        self.matcher.train()  # whatever was measured before has left it in evaluation mode
        for number in range(self.regime.passes):
            with self.clock("load"):
                plan, batch = next(batches)
            self._pass(plan, batch, last=number == self.regime.passes - 1)
        heard = self._ask_to_stop()
        with self.clock("reduce"):
            self.reducer.finish()
            heard()
        with self.clock("update"):
            recipe.precision.unscale(recipe.optimizer)
            norm = clip(self.matcher.parameters(), run.optim.grad_norm, stepped_twice(recipe.optimizer))
            set_learning_rate(recipe.optimizer, learning_rate(run.optim, self.step + 1))
            # The gradient is that of all ranks, so they all step or none does.
            # Reading the norm waits for the device once an update, on purpose: what follows hangs on it.
            made = self.skips.allows(math.isfinite(norm), self.step + 1)
            if made:
                recipe.precision.step(recipe.optimizer)
            else:
                recipe.precision.skip()
            recipe.optimizer.zero_grad()
        if made:
            for name, value in [*self.costs, ("grad_norm", norm.detach())]:
                self.sums[name] += value
            self.summed += 1
        self.costs.clear()
        self.step += 1
        self.slot += self.regime.anchors_per_update
        self.clock.count("updates", 1)
        if not made:
            self._warn("left out, for its gradient is not finite (metrics.jsonl counts such updates as skipped)")

    def _ask_to_stop(self) -> Wait:
        """Ask all ranks whether one was told to stop; they all know once the returned call is made.

        Ranks leave the loop together or not at all: a signal that arrives after the question waits for the next one.
        """
        stop = torch.tensor([float(self.told or 0)])
        wait = self.comm.mean_async_(stop, "stop")

        def heard() -> None:
            wait()
            if stop.item():
                self.stopped_by = self.told or signal.SIGTERM

        return heard

    def _pass(self, plan: Plan, batch: Batch, last: bool) -> None:
        """Add the gradients of a part of the update."""
        if last:
            self.reducer.arm()
        done = self.regime.losses(plan, batch, self.step, self.clock)
        with self.clock("train"):
            self.recipe.precision.backward(done.total)
        self.costs += done.logged.items()
        self.clock.count("pairs", done.pairs)
        self.clock.count("anchors", done.anchors)

    def _log(self, total: int) -> None:
        if self.step % self.run.output.log_steps and self.step != total:
            self.journal.progress(self.step, total)
            return
        values = {name: float(value / self.summed) for name, value in self._mean_sums().items()}
        self.sums.clear()
        self.summed = 0
        rates = self.clock.read(self.comm.size)
        self.journal.event("train", step=self.step, lr=learning_rate(self.run.optim, self.step), **values,
                           **self.skips.read(), **rates)
        self._warn(self.regime.warning(values))
        # Where all updates since the last line were left out, there is no value to show.
        shown = {"loss": values["loss"]} | self.regime.headline(values) if values else {}
        self.journal.progress(self.step, total, shown | {"pairs/s": rates["pairs_per_s"]})

    def _warn(self, text: str) -> None:
        """Say a warning, once."""
        if text and text not in self.warned:
            self.warned.add(text)
            self.journal.say(f"step {self.step}: {text}")

    def _mean_sums(self) -> dict[str, Tensor]:
        """What was summed since the last line of the log, as its mean over ranks; to be called by all of them."""
        names = sorted(self.sums)
        if not names:
            return {}
        means = self.comm.mean(torch.stack([self.sums[name] for name in names]).cpu(), "log")
        return dict(zip(names, means, strict=True))

    def _due(self, total: int) -> bool:
        every = self.run.output.save_steps or self.run.eval.valid_steps
        stopping = self.step == total or self.stopped_by is not None
        return stopping or self.step % self.run.eval.valid_steps == 0 or self.step % every == 0

    def _validate_and_save(self, val: Split | None) -> None:
        value = None
        last = self.step == self.run.optim.num_train_steps
        if val is not None and (last or self.step % self.run.eval.valid_steps == 0):
            value = self._validate(val)
        better = value is not None and value > self.best
        if better and value is not None:
            self.best = value
        state = self._state()
        if self.comm.rank == 0:
            target = self.checkpoints.save(self.step, self.matcher.state_dict(), state, self._facts())
            if better:
                self.checkpoints.point("best", target)
            self.journal.event("saved", step=self.step, path=target.name)
        self.comm.barrier("saved")

    def _validate(self, val: Split) -> float:
        """The number by which checkpoints are compared, the same on all ranks."""
        if self.run.eval.full_val:
            # Folds are how a test set is published; checkpoints are told apart by all images at once.
            found = measure(self.recipe, val, "val", self.folder, self.journal, folds=1)
            recalls = self.comm.share(found and found["recalls"])[0]
        else:
            recalls = quick_check(self.recipe, val)
        self.journal.event("valid", step=self.step, split="val", recalls=recalls)
        self.journal.say(f"step {self.step}: " + "  ".join(f"{name} {value:.4g}" for name, value in recalls.items()))
        chosen = self.run.eval.select_by
        if chosen not in recalls:
            raise Failure(f"select_by={chosen}: the quick check has no such number; use img_r_mean or full_val=true")
        return float(recalls[chosen])

    def _state(self) -> dict[str, Any]:
        """All that an exact resume needs besides the weights; to be called by all ranks."""
        recipe = self.recipe
        parts = {"optimizer": recipe.optimizer.state_dict(), "scaler": recipe.precision.state_dict()}
        log = {"sums": self._mean_sums(), "summed": self.summed, "skips": self.skips.state_dict()}
        return parts | log | {"step": self.step, "slot": self.slot, "best": self.best}

    def _facts(self) -> dict[str, Any]:
        note = {"hash": self.run.hash(), "step": self.step, "vocab_hash": self.recipe.vocab_hash}
        return self.run.dump() | {"_note": note}

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 and the first SIGINT let the update end, save and leave; a second SIGINT leaves at once."""

        def told(number: int, _: object) -> None:
            self.told = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        kinds = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {kind: signal.signal(kind, told) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
