"""A training run from its stores to the recalls of its best weights, whatever its regime."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from config.errors import DataError
from config.schema import Run
from train.checkpoint import Checkpoints
from train.comm import Comm
from train.entry import claim
from train.journal import Journal
from train.measure import measure
from train.recipe import Recipe, build_recipe
from train.regime import Regime
from train.results import keep, table
from train.splits import Split, write_quarantine
from train.trainer import Trainer


def train(build: Callable[[Recipe], Regime], run: Run, args: Namespace, comm: Comm) -> int:
    """One training run, from its stores to the recalls of its best weights."""
    start = resumed_from(run)
    recipe = build_recipe(run, comm, start)
    regime = build(recipe)
    if args.dry_run:
        return dry_run(regime)
    test, own = recipe.split("test"), recipe.split("val")
    val = test if run.eval.select_on_test else own
    folder = claim(recipe.run, comm)
    with Journal(folder, comm.rank, run.output.tensorboard, run.output.log_steps) as journal:
        for note in args.notes:
            journal.say(note)
        if run.eval.select_on_test:
            journal.say("the best checkpoint is chosen by its recalls of the test set, which are too high then")
        if comm.rank == 0:
            write_quarantine([split for split in (recipe.train, own, test) if split], folder)
        trainer = Trainer(regime, journal, folder)
        if start:
            trainer.resume(start)
        code = trainer.fit(val)
        if code or test is None:
            return code
        best = trainer.load_best()
        facts = {"checkpoint": best.name if best else ""} | ({"selected_on": "test"} if run.eval.select_on_test else {})
        found = measure(recipe, test, "test", folder, journal)
        if found is not None:
            journal.event("valid", step=trainer.step, split="test", recalls=found["recalls"])
            keep(folder, "test", found | facts)
            sys.stdout.write(table(found["recalls"]))
        if run.eval.select_on_test and own is not None:
            measure_unseen(recipe, own, folder, journal, facts)
    return code


def measure_unseen(recipe: Recipe, split: Split, folder: Path, journal: Journal, facts: dict[str, str]) -> None:
    """Keep the recalls of the validation split beside those of the test set that chose the weights."""
    found = measure(recipe, split, "val", folder, journal, folds=1)  # folds are how a test set is published
    if found is not None:
        keep(folder, "val", found | facts)
        told = f"rsum {found['recalls']['rsum']:.4g}, \"val\" in results.json"
        journal.say(f"the same weights on the validation split, which had no part in their choice: {told}")


def resumed_from(run: Run) -> Path | None:
    """The checkpoint that the run goes on from; None where it begins."""
    if run.output.resume not in ("auto", "never"):
        return Path(run.output.resume)
    return Checkpoints(Path(run.output.output_dir), run.output.keep).latest() if run.output.resume == "auto" else None


def dry_run(regime: Regime) -> int:
    """Build everything and read one batch; nothing is written."""
    loader = regime.loader(0)
    _, batch = next(iter(loader))
    loader.close()
    if not len(batch):
        raise DataError("the first batch is empty")
    sys.stderr.write(f"ready: {len(regime.anchors)} anchors, a pass of {len(batch)} pairs\n")
    return 0
