"""Validation during training: when it is due, and the number that selects the best checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from config.errors import Failure
from data.files import write_json
from train.assembly.recipe import Recipe
from train.assembly.splits import Split
from train.evaluation.retrieval import measure, quick_check
from train.metrics.journal import Journal

MEASURED = "measured.json"
"""Beside the checkpoints: the step that was measured last, and what it came to."""


class Validation:
    """The measurements of one run on its validation split; None for a run without one."""

    def __init__(self, recipe: Recipe, split: Split | None, folder: Path, journal: Journal) -> None:
        self.recipe, self.split, self.folder, self.journal = recipe, split, folder, journal
        self._path = folder / "ckpt" / MEASURED

    def due(self, step: int) -> bool:
        """Whether this step is measured."""
        run = self.recipe.run
        last = step == run.optim.num_train_steps
        return self.split is not None and (last or step % run.eval.valid_steps == 0)

    def measure(self, step: int) -> float:
        """The number by which checkpoints are compared, the same on all ranks.

        Raises:
            Failure: the quick check does not give the number that the run asks for.
        """
        recipe, journal = self.recipe, self.journal
        assert self.split is not None
        if recipe.run.eval.full_val:
            # Folds are how a test set is published; checkpoints are told apart by all images at once.
            found = measure(recipe, self.split, "val", self.folder, journal, folds=1)
            recalls = recipe.comm.all_gather_object(found and found["recalls"])[0]
        else:
            recalls = quick_check(recipe, self.split)
        journal.event("valid", step=step, split="val", recalls=recalls)
        journal.say(f"step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in recalls.items()))
        chosen = recipe.run.eval.select_by
        if chosen not in recalls:
            raise Failure(f"select_by={chosen}: the quick check has no such number; use img_r_mean or full_val=true")
        return float(recalls[chosen])

    def note(self, step: int, value: float) -> None:
        """Keep what a step came to; called by rank 0 once all that hangs on it is done."""
        write_json(self._path, {"step": step, "value": value})

    def known(self, step: int) -> float | None:
        """What was noted of this step, the same on all ranks; None where nothing was, or it cannot be read."""
        noted = self._noted() if self.recipe.comm.rank == 0 else None
        step_noted, value = self.recipe.comm.all_gather_object(noted)[0] or (None, None)
        return value if step_noted == step else None

    def _noted(self) -> tuple[int, float] | None:
        try:
            noted = json.loads(self._path.read_text())
            return int(noted["step"]), float(noted["value"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
