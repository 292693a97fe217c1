"""Train with hard negatives from anchored pools: score a pool without gradient, keep the hardest, train on them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from argparse import Namespace

from config.errors import DataError
from config.schema import Run
from train.comm import Comm
from train.entry import claim, leave, main
from train.journal import Journal
from train.measure import measure
from train.recipe import Recipe, build_recipe
from train.results import keep, table
from train.splits import write_quarantine
from train.trainer import Trainer


def work(run: Run, args: Namespace, comm: Comm) -> int:
    """One training run, from its stores to the recalls of its best weights."""
    recipe = build_recipe(run, comm)
    if args.dry_run:
        return dry_run(recipe)
    val, test = recipe.split("val"), recipe.split("test")
    folder = claim(run, comm)
    with Journal(folder, comm.rank, run.output.tensorboard, run.output.log_steps) as journal:
        for note in args.notes:
            journal.say(note)
        if comm.rank == 0:
            write_quarantine([split for split in (recipe.train, val, test) if split], folder)
        trainer = Trainer(recipe, journal, folder)
        start = trainer.checkpoints.latest() if run.output.resume == "auto" else None
        if run.output.resume not in ("auto", "never"):
            start = Path(run.output.resume)
        if start:
            trainer.resume(start)
        code = trainer.fit(val)
        if code or test is None:
            return code
        best = trainer.load_best()
        found = measure(recipe, test, "test", folder, journal)
        if found is not None:
            journal.event("valid", step=trainer.step, split="test", recalls=found["recalls"])
            keep(folder, "test", found | {"checkpoint": best.name if best else ""})
            sys.stdout.write(table(found["recalls"]))
    return code


def dry_run(recipe: Recipe) -> int:
    """Build everything and read one batch; nothing is written."""
    loader = recipe.loader(0)
    plan, batch = next(iter(loader))
    loader.close()
    if not len(batch):
        raise DataError("the first batch is empty")
    sys.stderr.write(f"ready: {len(recipe.pools.anchors)} anchors, a pass of {len(batch)} pairs ({plan.direction})\n")
    return 0


if __name__ == "__main__":
    leave(main("itm_hn", __doc__ or "", work))
