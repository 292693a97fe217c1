"""The training loop: accumulate, reduce, clip, step, log, save, validate, stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from config.errors import DataError
from config.wording import pluralise
from data.batches.batch import Batch
from data.batches.plan import Plan
from model.loading import load
from train.assembly.optim import clip, learning_rate, set_learning_rate, stepped_twice
from train.assembly.splits import Split
from train.checkpointing.checkpoint import Checkpoints, read_facts, read_state, read_weights
from train.checkpointing.saver import AsyncSaver
from train.checkpointing.snapshot import Snapshot, copy_to_host
from train.distributed.comm import RegroupRequested
from train.distributed.devices import describe_device
from train.distributed.stop_request import StopRequest
from train.loop.nonfinite_guard import NonFiniteGuard
from train.loop.reducer import GradientReducer
from train.loop.regime import Regime
from train.loop.running_means import RunningMeans
from train.loop.validation import Validation
from train.metrics.clock import Clock, catch_up
from train.metrics.journal import Journal
from train.metrics.throughput import measure_ranks, summary

Batches = Iterator[tuple[Plan, Batch]]


class Trainer:
    """Trains a recipe by its regime to its last step, going on from a checkpoint where there is one.

    Args:
        keep: called with each commit of an elastic run, the newest of which a later trainer goes on from.
    """

    def __init__(
        self, regime: Regime, journal: Journal, folder: Path, keep: Callable[[Snapshot], object] | None = None
    ) -> None:
        self.regime, self.recipe, self.journal, self.folder = regime, regime.recipe, journal, folder
        recipe = self.recipe
        self.run, self.comm, self.matcher, self.keep = recipe.run, recipe.comm, recipe.matcher, keep
        self.checkpoints = Checkpoints(folder, self.run.output.keep, self.comm.progress.advance)
        self.saver = AsyncSaver(self.checkpoints)
        self.comm.progress.writes = self.saver.writes
        self.stop = StopRequest(self.comm, self.saver.wait)
        self.step, self.slot, self.best = 0, 0, -math.inf
        self.clock = Clock(self.comm.progress)
        self.guard = NonFiniteGuard(self.run.optim.most_skipped)
        self.running = RunningMeans(self.comm, recipe.device)
        self.costs: list[tuple[str, Tensor]] = []
        self.warned: set[str] = set()
        self.reducer = GradientReducer(self.comm, self.matcher.named_parameters(), self.run.optim.compression,
                                       recipe.precision.loss_scale)

    def resume(self, folder: Path) -> None:
        """Go on exactly from a checkpoint.

        Raises:
            DataError: it is not whole, or of another model.
        """
        state, note = read_state(folder), read_facts(folder)
        self.restore(Snapshot(state["step"], read_weights(folder), state, {"_note": note}), str(folder))
        if self.comm.rank == 0:
            self.checkpoints.continue_from(folder)

    def restore(self, snapshot: Snapshot, name: str) -> None:
        """Go on exactly from a snapshot, which is called `name` in what is said."""
        load(self.matcher, self.run.matcher.name, snapshot.weights, name)
        state = copy_to_host(
            snapshot.state
        )  # what is loaded is changed by the next update, and the snapshot may be kept
        self.recipe.optimizer.load_state_dict(state["optimizer"])
        self.recipe.precision.load_state_dict(state["scaler"])
        self.step, self.slot, self.best = snapshot.step, state["slot"], state["best"]
        self.running.load_state_dict(state["tally"])
        self.guard.load_state_dict(state["skips"])
        note = snapshot.facts.get("_note", {})
        if note.get("hash") == self.run.hash():
            self.warned = set(state.get("warned", ()))  # older checkpoints have none
        trained_with = note.get("vocab_hash")
        if trained_with and self.recipe.train.vocab_hash not in (None, trained_with):
            raise DataError(f"{name}: trained with another vocabulary than the training store's; use the same store")
        self.journal.say(f"going on from {name} at step {self.step}")
        self._compare_updates(note)

    def _compare_updates(self, note: dict[str, Any]) -> None:
        """Say it where updates are of another size than those before: ranks have come or gone."""
        before, now = note.get("anchors_per_update"), self.regime.anchors_per_update
        if before not in (None, now):
            here, there = pluralise(self.comm.size, "rank"), pluralise(note["ranks"], "rank")
            self.journal.say(f"an update takes {now} anchors now, on {here}; before it took {before}, on {there}; "
                             f"--global_batch_size {before} keeps that")

    def fit(self, val: Split | None) -> int:
        """Train to the last step, or until told to stop; returns the exit code."""
        self._same_start()
        self.clock.lap()
        total, validation = self.run.optim.num_train_steps, Validation(self.recipe, val, self.folder, self.journal)
        facts = {"hash": self.run.hash(), "world": self.comm.size, **describe_device(self.recipe.device)}
        facts["parameters"] = sum(p.numel() for p in self.matcher.parameters() if p.requires_grad)
        self.journal.event("start", step=self.step, **facts)
        with self.stop.listening(), self.saver:
            self._validate_again(validation)
            if self.step < total:
                self._updates(total, validation)
            if self.stop.by is None:
                self.stop.agree_async()()
            self._committed()
        if self.stop.by is not None:
            self.journal.say(f"told to stop by {self.stop.reason}: saved at step {self.step}")
        return self.stop.code

    def _updates(self, total: int, validation: Validation) -> None:
        """Stretch after stretch of updates that the regime prepares."""
        while self.step < total and self.stop.by is None:
            with self.clock.paused(), self.stop.interruptible():
                until = self.regime.prepare(self.step, self.folder, self.journal)
            self._stretch(min(until, total), total, validation)
            if self.step < total and self.stop.by is None and not self._due(total):
                # What comes before the next stretch may take longer than a scheduler waits.
                with self.clock.paused():
                    self._save()

    def _stretch(self, until: int, total: int, validation: Validation) -> None:
        """Update after update, with whatever is due in between.

        Raises:
            Regroup: others want to join; this step is committed.
        """
        loader = self.regime.loader(self.slot)
        batches = iter(loader)
        try:
            while self.step < until and self.stop.by is None:
                self._update(batches)
                self._log(total)
                with self.clock.paused():
                    self._keep_or_save(total, validation)
                if self.keep and self.stop.regroup and self.step < total:
                    raise RegroupRequested(f"ranks want to join at step {self.step}")
        finally:
            loader.close()

    def load_best(self) -> Path | None:
        """Put the best weights (the last ones where none was measured) into the model."""
        kept = self.checkpoints
        name = self.comm.run_on_first(lambda: str(kept.best() or kept.newest(self.journal.say) or ""))
        if not name:
            return None
        load(self.matcher, self.run.matcher.name, read_weights(Path(name)), name)
        return Path(name)

    def _same_start(self) -> None:
        for name, tensor in self.matcher.state_dict().items():
            self.comm.broadcast_(tensor, f"start.{name}")

    def _update(self, batches: Batches) -> None:
        """One optimizer step over every rank's anchors."""
        run, recipe = self.run, self.recipe
        self.comm.progress.begin_step(self.step + 1)
        self.matcher.train()  # whatever was measured before has left it in evaluation mode
        for number in range(self.regime.passes):
            with self.clock("load"):
                plan, batch = next(batches)
            self._pass(plan, batch, last=number == self.regime.passes - 1)
        heard = self.stop.agree_async()
        with self.clock("train"):
            catch_up(recipe.device)
        with self.clock("reduce"):
            self.reducer.finish()
            heard()
        with self.clock("update"):
            recipe.precision.unscale(recipe.optimizer)
            norm = clip(self.matcher.parameters(), run.optim.grad_norm, stepped_twice(recipe.optimizer))
            set_learning_rate(recipe.optimizer, learning_rate(run.optim, self.step + 1))
            # All ranks have this gradient, so all step or none. Reading its norm waits for the device, on purpose.
            made = self.guard.allows(math.isfinite(norm), self.step + 1)
            if made:
                recipe.precision.step(recipe.optimizer)
            else:
                recipe.precision.skip()
            recipe.optimizer.zero_grad()
        if made:
            self.running.update([*self.costs, ("grad_norm", norm.detach())])
        self.costs.clear()
        self.step += 1
        self.slot += self.regime.anchors_per_update
        self.clock.count("updates", 1)
        if not made:
            self._warn("left out, for its gradient is not finite (metrics.jsonl counts such updates as skipped)")

    def _pass(self, plan: Plan, batch: Batch, last: bool) -> None:
        """Add the gradients of a part of the update."""
        if last:
            self.reducer.arm()
        done = self.regime.losses(plan, batch, self.step, self.clock)
        with self.clock("train"):
            self.recipe.precision.backward(done.total)
        self.costs += done.logged.items()
        self.running.add_digest(plan.digest)
        self.clock.count("pairs", done.pairs)
        self.clock.count("anchors", done.anchors)

    def _log(self, total: int) -> None:
        if self.step % self.run.output.log_steps and self.step != total:
            self.journal.progress(self.step, total)
            return
        values, samples = self.running.means(), self.running.samples()
        self.running.clear()
        rates = measure_ranks(self.clock, self.comm)
        self.journal.event("train", step=self.step, lr=learning_rate(self.run.optim, self.step), **values,
                           **self.guard.read(), samples=samples, **rates)
        self._warn(self.regime.warning(self.step, values) if values else "")
        # Where all updates since the last line were left out, there is no value to show.
        shown = {"loss": values["loss"]} | self.regime.headline(values) if values else {}
        self.journal.progress(self.step, total, shown | {"pairs/s": rates["pairs_per_s"]}, summary(rates))

    def _warn(self, text: str) -> None:
        """Say a warning, once in a run however often that is resumed."""
        if text and text not in self.warned:
            self.warned.add(text)
            self.journal.event("warning", step=self.step, text=text)
            self.journal.say(f"step {self.step}: {text}")

    def _due(self, total: int) -> bool:
        """Whether this step is saved."""
        every = self.run.output.save_steps or self.run.eval.valid_steps
        stopping = self.step == total or self.stop.by is not None
        return stopping or self.step % self.run.eval.valid_steps == 0 or self.step % every == 0

    def _keep_or_save(self, total: int, validation: Validation) -> None:
        """Whatever has to be kept of this step, and its validation."""
        if self._due(total):
            self._save()
            if self.stop.by is None and validation.due(self.step):
                self._validate(validation)
        elif self.keep and (self.stop.regroup or self.step % self.run.cluster.commit_steps == 0):
            self.keep(self._snapshot())
        self._tell_saved()

    def _save(self) -> None:
        """Have rank 0 write a checkpoint, while the work goes on; called by all ranks."""
        snapshot = self._snapshot()
        if self.keep:
            self.keep(snapshot)
        if self.comm.rank == 0:
            self.saver.save(snapshot)

    def _committed(self) -> None:
        """Wait until what rank 0 writes is on disk: no rank leaves before."""
        self.saver.wait()
        self._tell_saved()
        self.comm.barrier("saved")

    def _tell_saved(self) -> None:
        for saved in self.saver.done():
            self.journal.event("saved", step=saved.step, path=saved.path.name, seconds=round(saved.seconds, 3))

    def _validate_again(self, validation: Validation) -> None:
        """Make up for the validation of the step that the run goes on from, if it ended before that was done."""
        if self.step == 0:
            return
        known = validation.known(self.step)  # also where only a run of fewer updates, its last one, was to measure it
        if known is not None:
            self.best = max(self.best, known)
        elif validation.due(self.step):
            self._save()  # it may lie in the folder of another run, and can be the best of this one
            self._validate(validation)

    def _validate(self, validation: Validation) -> None:
        """Measure this step, whose checkpoint is written meanwhile, and point at that where it is the best."""
        with self.stop.interruptible():
            value = validation.measure(self.step)
        better, self.best = value > self.best, max(self.best, value)
        if self.comm.rank == 0:
            self.saver.wait()
            if better:
                self.checkpoints.mark_best(self.step)
            validation.note(self.step, value)

    def _snapshot(self) -> Snapshot:
        """The run at this step; to be called by all ranks."""
        recipe = self.recipe
        state: dict[str, Any] = {
            "optimizer": recipe.optimizer.state_dict(), "scaler": recipe.precision.state_dict(),
            "tally": self.running.state_dict(), "skips": self.guard.state_dict(),
            "step": self.step, "slot": self.slot, "best": self.best, "warned": sorted(self.warned),
        }  # fmt: skip
        note = {"hash": self.run.hash(), "step": self.step, "vocab_hash": recipe.vocab_hash,
                "epoch": self.slot // len(self.regime.anchors), "ranks": self.comm.size,
                "anchors_per_update": self.regime.anchors_per_update}  # fmt: skip
        return Snapshot.of(self.step, self.matcher.state_dict(), state, self.run.dump() | {"_note": note})

