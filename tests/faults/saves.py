"""Saves of every kind, and what a folder of checkpoints must hold whatever has happened to one of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.checkpointing.checkpoint import Checkpoints, read_facts, read_state, read_weights
from train.checkpointing.listing import BEFORE
from train.checkpointing.snapshot import Snapshot

Act = Callable[[Path], object]


def snapshot(step: int, value: float | None = None) -> Snapshot:
    """A run at a step; two of the same step differ by their value."""
    value = float(step) if value is None else value
    state = {"step": step, "moments": [torch.full((3,), value), torch.full((5,), value, dtype=torch.float64)]}
    return Snapshot(step, {"a.weight": torch.full((2, 3), value), "a.bias": torch.full((3,), value)}, state,
                    {"_note": {"step": step, "value": value}})


def content(folder: Path) -> Any:
    """All that a checkpoint says, as it can be compared."""
    weights, state = read_weights(folder), read_state(folder)
    named = {name: tensor.tolist() for name, tensor in weights.items()}
    return named, state["step"], [tensor.tolist() for tensor in state["moments"]], read_facts(folder)


def same(folder: Path, wanted: Snapshot) -> bool:
    """Whether a checkpoint is this snapshot to the bit."""
    named = {name: tensor.tolist() for name, tensor in wanted.weights.items()}
    moments = [tensor.tolist() for tensor in wanted.state["moments"]]
    return content(folder) == (named, wanted.step, moments, wanted.facts["_note"])


@dataclass(frozen=True)
class Save:
    """What is in the folder, what is then done to it, and which checkpoints must be found after that.

    Attributes:
        new: the newest after the save.
        old: the newest before it; None where there is none.
        best: those that may be called the best.
        kept: all that is there in the end.
    """

    before: Act
    act: Act
    new: Snapshot
    old: Snapshot | None
    best: tuple[Snapshot | None, ...]
    kept: tuple[str, ...]


def written(keep: int, *snapshots: Snapshot, best: int = 0) -> Act:
    """Writes snapshots one after the other, and calls the one of step `best` that."""

    def act(folder: Path) -> None:
        place = Checkpoints(folder, keep)
        for one in snapshots:
            place.write(one)
            if one.step == best:
                place.mark_best(best)

    return act


def put_aside(folder: Path) -> None:
    """Two of the same step, as a process leaves them that was lost before the older one was removed."""
    place = Checkpoints(folder, 2)
    place.write(snapshot(20, 1.0))
    place.mark_best(20)
    aside = folder / "ckpt" / f"step-00000020{BEFORE}"
    shutil.copytree(folder / "ckpt" / "step-00000020", folder / "other")
    place.write(snapshot(20, 2.0))
    (folder / "other").rename(aside)


def left_over(folder: Path) -> None:
    """One whole, one half-written and one half-removed."""
    place = Checkpoints(folder, 2)
    place.write(snapshot(10))
    for name in (".step-00000020.partial", ".step-00000005.gone"):
        shutil.copytree(folder / "ckpt" / "step-00000010", folder / "ckpt" / name)
        (folder / "ckpt" / name / "complete.json").unlink()


def nothing(folder: Path) -> None:
    """A new output folder."""
    folder.mkdir(exist_ok=True)


S10, S20, S30, S40 = (snapshot(step) for step in (10, 20, 30, 40))
AGAIN = snapshot(20, 3.0)
SAVES = {
    "the first": Save(nothing, written(2, S10), S10, None, (None,), ("step-00000010",)),
    "the second": Save(written(2, S10), written(2, S20), S20, S10, (None,), ("step-00000010", "step-00000020")),
    "a better one": Save(written(2, S10, best=10), written(2, S20, best=20), S20, S10, (S10, S20),
                         ("step-00000010", "step-00000020")),
    "one that others go for": Save(written(9, S10, S20, S30, best=20), written(1, S40), S40, S30, (S20,),
                                   ("step-00000020", "step-00000040")),
    "the same step again": Save(written(2, S10, S20), written(2, AGAIN), AGAIN, S20, (None,),
                                ("step-00000010", "step-00000020")),
    "the best again": Save(written(2, S10, S20, best=20), written(2, AGAIN), AGAIN, S20, (S20, AGAIN),
                           ("step-00000010", "step-00000020")),
    "one that was put aside before": Save(put_aside, written(2, AGAIN), AGAIN, snapshot(20, 2.0),
                                          (snapshot(20, 1.0), snapshot(20, 2.0), AGAIN), ("step-00000020",)),
    "over what was left": Save(left_over, written(2, S20), S20, S10, (None,), ("step-00000010", "step-00000020")),
}  # fmt: skip


def outcome(folder: Path, save: Save) -> str:
    """Whether a run that is started again goes on from the `new` or the `old` one, or `begins`.

    Anything else is an error: a part of one, an older one, one that is named as damaged.
    """
    said: list[str] = []
    place = Checkpoints(folder, 1)
    newest, best = place.newest(said.append), place.best()
    assert said == []
    assert any(wanted is None if best is None else wanted and same(best, wanted) for wanted in save.best)
    if newest is None:
        assert save.old is None
        return "begins"
    if same(newest, save.new):
        return "new"
    assert save.old is not None
    assert same(newest, save.old)
    return "old"


def goes_on(folder: Path, save: Save) -> None:
    """Do the save again, then one more: all is as if nothing had happened, and nothing is left lying about."""
    newest = Checkpoints(folder, 1).newest(print)
    if newest is not None:
        Checkpoints(folder, 1).continue_from(newest)
    save.act(folder)
    assert outcome(folder, save) == "new"
    names = {path.name for path in (folder / "ckpt").iterdir()}
    links = {"latest"} | ({"best"} if save.best != (None,) else set())
    assert names == {*save.kept, *links}
    assert (folder / "ckpt" / "latest").resolve().name == f"step-{save.new.step:08d}"
