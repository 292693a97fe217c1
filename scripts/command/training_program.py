"""Which of the programs in train/ trains a run: that follows from what its objective looks at."""

from __future__ import annotations

from config.command.settings_read import Reads, training_on_batches, training_on_pools
from config.schema import Run
from model.objective import build_objective

PROGRAMS = {"pools": "train/itm_hn.py", "items": "train/itm.py"}
READS: dict[str, Reads] = {"train/itm_hn.py": training_on_pools, "train/itm.py": training_on_batches}
"""The settings that each of them reads."""


def training_program(run: Run) -> str:
    """The program, as a path from the project's root.

    Raises:
        ValueError: the objective asks for neither kind of batch; its `needs` are wrong.
    """
    needs = build_objective(run.objective).needs
    found = [program for need, program in PROGRAMS.items() if need in needs]
    if len(found) != 1:
        raise ValueError(f"objective {run.objective.name}: needs {sorted(needs)}, which no one program offers")
    return found[0]
