"""A training run from its stores to the recalls of its best weights, in any regime."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from config.errors import DataError
from config.schema import Run
from train.assembly.recipe import Recipe, build_recipe
from train.assembly.splits import Split, write_quarantine
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.checkpoint_path import checkpoint_at
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Comm
from train.distributed.state_transfer import transfer_newest
from train.evaluation.results import format_table, write_entry
from train.evaluation.retrieval import measure
from train.loop.claim import claim, find_extension
from train.loop.regime import Regime
from train.loop.trainer import Trainer
from train.metrics.journal import Journal


class Training:
    """The work of a training entry; called again by an elastic run whose ranks have changed.

    Args:
        build: the regime, of a recipe.
    """

    def __init__(self, build: Callable[[Recipe], Regime]) -> None:
        self._build = build
        self._held: Snapshot | None = None
        self._told = 0

    def __call__(self, run: Run, args: Namespace, comm: Comm) -> int:
        """One training run, from its stores, a checkpoint or a commit to the recalls of its best weights."""
        start, notes = resolve_resume(run, comm)
        recipe = build_recipe(run, comm, start)
        regime = self._build(recipe)
        extension = find_extension(recipe.run)
        test, own = recipe.split("test"), recipe.split("val")
        if args.dry_run:
            return dry_run(regime)
        folder = claim(recipe.run, comm)
        with Journal(folder, comm.rank, run.output.tensorboard, run.output.log_steps) as journal:
            for note in [*args.notes, *recipe.notes, *notes, *([str(extension)] if extension else [])]:
                journal.say(note)
            if extension:
                journal.event("extended", **extension.facts)
            if run.eval.select_on_test:
                journal.say("the best checkpoint is chosen by its recalls of the test set, which are too high then")
            if comm.rank == 0:
                write_quarantine([split for split in (recipe.train, own, test) if split], folder)
            trainer = Trainer(regime, journal, folder, self._hold if run.cluster.elastic else None)
            self._begin(trainer, start)
            if trainer.step >= run.optim.num_train_steps:
                done = run.optim.num_train_steps
                journal.say(f"all {done} updates are done; --extend with a larger --num_train_steps goes on from here")
            try:
                code = trainer.fit(test if run.eval.select_on_test else own)
            finally:
                self._told = trainer.stop.pending
            if code == 0 and test is not None:
                measure_best(trainer, test, own if run.eval.select_on_test else None)
        return code

    def _hold(self, snapshot: Snapshot) -> None:
        self._held = snapshot

    def _begin(self, trainer: Trainer, start: Path | None) -> None:
        """Put the newest commit of any rank into it, or else the checkpoint; tell it what the last one was told."""
        if self._told:
            trainer.stop.request(self._told)
        commit = transfer_newest(self._held, trainer.comm) if trainer.run.cluster.elastic else None
        if commit is not None:
            trainer.restore(commit, "the last commit")
        elif start is not None:
            trainer.resume(start)


def measure_best(trainer: Trainer, test: Split, unseen: Split | None) -> None:
    """Measure the best weights on the test set and keep and print the recalls.

    Args:
        unseen: the validation split, where the test set chose the weights: measured beside it.
    """
    recipe, journal, folder = trainer.recipe, trainer.journal, trainer.folder
    best = trainer.load_best()
    facts = {"checkpoint": best.name if best else ""}
    if recipe.run.eval.select_on_test:
        facts["selected_on"] = "test"
    found = measure(recipe, test, "test", folder, journal)
    if found is not None:
        journal.event("valid", step=trainer.step, split="test", recalls=found["recalls"])
        write_entry(folder, "test", found | facts)
        sys.stdout.write(format_table(found["recalls"]))
    if unseen is not None:
        measure_unseen(recipe, unseen, folder, journal, facts)


def measure_unseen(recipe: Recipe, split: Split, folder: Path, journal: Journal, facts: dict[str, str]) -> None:
    """Keep the recalls of the validation split beside those of the test set that chose the weights."""
    found = measure(recipe, split, "val", folder, journal, folds=1)  # folds are how a test set is published
    if found is not None:
        write_entry(folder, "val", found | facts)
        told = f"rsum {found['recalls']['rsum']:.4g}, \"val\" in results.json"
        journal.say(f"the same weights on the validation split, which had no part in their choice: {told}")


def resolve_resume(run: Run, comm: Comm) -> tuple[Path | None, list[str]]:
    """The checkpoint that the run goes on from, None where it begins; and what is to be said of damaged ones.

    One of another folder is where the run begins: started again, it goes on from its own.

    Raises:
        DataError: there are checkpoints, and none is whole; or what is named as one is none.
    """
    other = None if run.output.resume in ("auto", "never") else Path(run.output.resume)
    checkpoints = Checkpoints(Path(run.output.output_dir), run.output.keep)
    said: list[str] = []
    if run.output.resume != "never" and not (other and other.resolve().parent == checkpoints.folder.resolve()):
        own = comm.run_on_first(lambda: str(checkpoints.newest(said.append) or ""))
        if own:
            return Path(own), said
    return other and checkpoint_at(other, "resume", whole=True), said


def dry_run(regime: Regime) -> int:
    """Build everything and read one batch; nothing is written."""
    loader = regime.loader(0)
    _, batch = next(iter(loader))
    loader.close()
    if not len(batch):
        raise DataError("the first batch is empty")
    sys.stderr.write(f"ready: {len(regime.anchors)} anchors, a pass of {len(batch)} pairs\n")
    return 0
