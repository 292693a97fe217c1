"""The claim of a run on its output folder: made before anything is written, and checked by other runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import load
from config.errors import ConfigError
from config.files import NOTE
from config.leaves import flatten
from config.paths import CONFIG
from config.schema import Run
from config.sections import Optim
from data.files import read_json, write_json
from train.assembly.kinds import KINDS
from train.assembly.optim import learning_rate
from train.checkpointing.listing import list_checkpoints, looks_whole
from train.distributed.comm import Comm

STEPS = "optim.num_train_steps"
EXTENDED = "extended"
"""The note in config.json of each time that the run was given more updates."""


@dataclass(frozen=True)
class Extension:
    """More updates for the run of a folder than it had; `step` is the one that it has reached."""

    before: Optim
    after: Optim
    step: int

    @property
    def facts(self) -> dict[str, int]:
        """What is kept of it."""
        return {"from": self.before.num_train_steps, "to": self.after.num_train_steps, "step": self.step}

    def __str__(self) -> str:
        old, new = (learning_rate(optim, self.step + 1) for optim in (self.before, self.after))
        total = self.after.num_train_steps
        return (f"extended from {self.before.num_train_steps} to {total} updates at step {self.step}: learning rate, "
                f"ramps and annealing go on as in a run of {total} (rate of the next update {new:.3g}, not {old:.3g})")


def claim(run: Run, comm: Comm) -> Path:
    """The output folder, made and marked as this run's before anything else is written to it.

    Raises:
        ConfigError: no folder is named, it cannot be made, it holds another run, or it may not be resumed.
    """
    if not run.output.output_dir:
        raise ConfigError("output_dir is not set; give --output_dir FOLDER")
    extension, folder = find_extension(run), Path(run.output.output_dir)
    config = folder / CONFIG
    if comm.rank == 0 and (extension or not config.exists()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(config, _kept(run, extension, config), indent=1)
        except OSError as error:
            raise ConfigError(f"output_dir={folder}: cannot be made ({error.strerror}); name another folder") from error
    comm.barrier("claimed")
    return folder


def find_extension(run: Run) -> Extension | None:
    """Look whether a run may have its output folder, and what more it wants of the run there; nothing is written.

    Every rank finds the same: a folder that rank 0 has already marked as this run's is this run's.

    Raises:
        ConfigError: as `claim`.
    """
    folder = Path(run.output.output_dir)
    if run.output.output_dir and folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir={folder}: cannot be made (Not a directory); name another folder")
    if not run.output.output_dir or not (folder / CONFIG).exists():
        if run.output.extend:
            raise ConfigError(f"extend: output_dir={folder} holds no run; name the folder of one, or leave --extend "
                              "out")
        return None
    theirs = load(folder / CONFIG, {}, KINDS)
    changed = find_differences(theirs, run)
    grows = [*changed] == [STEPS] and run.optim.num_train_steps > theirs.optim.num_train_steps
    if changed and not (grows and run.output.extend):
        raise ConfigError(f"output_dir={folder}: holds a run with other settings ({describe_differences(changed)}); "
                          f"{_ways_on(run, folder, grows)}")
    if run.output.resume == "never" and (folder / "ckpt").exists():
        raise ConfigError(f"output_dir={folder}: holds this run's checkpoints; use --resume auto or another folder")
    return Extension(theirs.optim, run.optim, read_step(folder)) if changed else None


def find_differences(theirs: Run, ours: Run) -> dict[str, tuple[Any, Any]]:
    """(their value, ours) of each setting that decides the result and differs; None where a run has no such setting.

    Of another matcher or objective only the name is told.
    """
    old, new = (flatten(run.identity(), "") for run in (theirs, ours))
    values = {key: tuple(leaves[key].value if key in leaves else None for leaves in (old, new)) for key in [*old, *new]}
    changed = {key: (was, now) for key, (was, now) in values.items() if was != now}
    renamed = {key.partition(".")[0] for key in changed if key.endswith(".name")}
    return {key: pair for key, pair in changed.items() if key.endswith(".name") or key.partition(".")[0] not in renamed}


def describe_differences(changed: dict[str, tuple[Any, Any]]) -> str:
    """In words: "optim.learning_rate was 5e-05, now 0.0001"."""
    return "; ".join(f"{key} was {_shown(was)}, now {_shown(now)}" for key, (was, now) in changed.items())


def _shown(value: Any) -> str:
    return "not set" if value in (None, "", []) else str(value)


def find_newest(folder: Path) -> Path | None:
    """The newest checkpoint that looks whole, under its own name; None where there is not one."""
    whole = [one.path for one in list_checkpoints(folder / "ckpt") if looks_whole(one)]
    return whole[-1].resolve() if whole else None


def read_step(folder: Path) -> int:
    """The step that the run in a folder has reached."""
    newest = find_newest(folder)
    return int(newest.name.removeprefix("step-")) if newest else 0


def _ways_on(run: Run, folder: Path, grows: bool) -> str:
    return ", or ".join(_ways(run, folder, grows))


def _ways(run: Run, folder: Path, grows: bool) -> Iterator[str]:
    """What can be done with other settings than those of the run in a folder."""
    if grows:
        yield f"give --extend to let it go on here to {run.optim.num_train_steps} updates"
    if run.output.extend and not grows:
        yield "leave out all but a larger num_train_steps, which alone --extend allows"
    newest = find_newest(folder)
    resume = f", with --resume {newest} to go on from its last checkpoint" if newest else ""
    yield f"name another folder{resume}"


def _kept(run: Run, extension: Extension | None, config: Path) -> dict[str, Any]:
    """What config.json says: the run, and its extensions.

    How it lives with its ranks is no part of what it is, nor is that it may be extended, and not that of an evaluation
    of it.
    """
    kept = {name: part for name, part in run.dump().items() if name != "cluster"}
    del kept["output"]["extend"]
    if extension is None:
        return kept
    before = read_json(config, "restore it").get(NOTE, {})
    return kept | {NOTE: before | {EXTENDED: [*before.get(EXTENDED, []), extension.facts]}}
