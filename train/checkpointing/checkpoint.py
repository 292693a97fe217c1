"""Checkpoint folders: written beside and renamed, weights without pickle, the newest and the best kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from config.errors import DataError, Failure
from config.paths import CONFIG, WEIGHTS
from data.files import read_json, sync
from train.checkpointing.checkpoint_path import STATE, checkpoint_at
from train.checkpointing.listing import (
    BEFORE,
    ListedCheckpoint,
    Said,
    list_checkpoints,
    locate_checkpoint,
    looks_whole,
    newest_whole,
)
from train.checkpointing.manifest import FolderWriter, verify_file
from train.checkpointing.published import is_parts, is_state, join_parts, load_restricted
from train.checkpointing.snapshot import Snapshot
from train.checkpointing.tensors import write_tensors

LATEST, BEST = "latest", "best"


class Checkpoints:
    """The `ckpt` folder of a run: `step-00000500/`, and the link `best`.

    Args:
        sign: called with every piece that is written, a sign of life for whoever watches.

    The marks tell which is the newest. The link `latest` repeats it for people and tools; nothing is read through it.
    """

    def __init__(self, output_dir: Path, keep: int, sign: Callable[[], object] = bool) -> None:
        self.folder, self.keep, self._sign = output_dir / "ckpt", keep, sign
        self._passed_over: set[str] = set()

    def write(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, which is the newest then; forget those that are not needed.

        Raises:
            Failure: the disk is full or cannot be written; what stood there before is untouched.
        """
        target = self._place(snapshot.step)
        beside = self.folder / f".{target.name}.partial"
        try:
            self._fill(beside, snapshot)
            self._put_aside(target)
            beside.rename(target)
            sync(self.folder)
            self._link(LATEST, target)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise Failure(
                f"{target}: could not be saved ({reason_of(error)}); free space and start again with the same command"
                + self._promise()
            ) from error
        self._passed_over.discard(target.name)
        try:
            self._forget_old()
        except OSError as error:
            told = f"older checkpoints could not be removed ({reason_of(error)}); make it writable"
            raise Failure(f"{self.folder}: {told} and start again with the same command{self._promise()}") from error
        return target

    def newest(self, said: Said) -> Path | None:
        """The newest checkpoint all of whose files are what was written; None where none was ever saved.

        Args:
            said: is told of each that is passed over, and why.

        Raises:
            DataError: there are some, and all are damaged.
        """
        return newest_whole(self.folder, said)

    def best(self) -> Path | None:
        """The best checkpoint, or None; whoever reads it finds out whether it is whole."""
        link = self.folder / BEST
        return locate_checkpoint(self.folder, link.readlink().name) if link.is_symlink() else None

    def marked_best(self) -> Path | None:
        """The best checkpoint, for whoever measures it; None where none was chosen.

        Raises:
            DataError: `best` is no link to a checkpoint that is here, as after a copy that does not keep links.
        """
        found, link = self.best(), self.folder / BEST
        if found is None and (link.exists() or link.is_symlink()):
            raise DataError(f"{link}: is no link to a checkpoint beside it; link it again, or name one with its path "
                            "(--which, --checkpoint)")  # fmt: skip
        return found

    def mark_best(self, step: int) -> None:
        """Make the checkpoint of a step the best, in one move that is on disk then.

        Nothing is the best where that checkpoint is not here: a run may come from another folder's.

        Raises:
            Failure: the disk is full or cannot be written; the best is what it was.
        """
        place = self._place(step)
        if locate_checkpoint(self.folder, place.name):
            self._point(BEST, place)

    def continue_from(self, folder: Path) -> None:
        """Note that the run goes on from `folder`, and mend the link to the newest that a lost process left behind.

        Those that were saved after it, damaged or given up, count no more among the ones that are kept.

        Raises:
            Failure: the link cannot be written.
        """
        folder = folder.resolve()
        names = [one.path.name for one in list_checkpoints(self.folder)]
        if folder.parent != self.folder.resolve() or folder.name not in names:
            return
        self._passed_over = set(names[names.index(folder.name) + 1 :])
        if not self._passed_over:
            self._point(LATEST, folder)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _fill(self, beside: Path, snapshot: Snapshot) -> None:
        """Write all that a checkpoint holds."""
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            sync(self.folder.parent)
        number = 1 + max((one.number for one in self._tidied()), default=0)
        made = FolderWriter(beside, self._sign)
        with made.file(WEIGHTS) as file:
            write_tensors(file, snapshot.weights)
        with made.file(STATE) as file:
            torch.save(snapshot.state, file)
        with made.file(CONFIG) as file:
            file.write(json.dumps(snapshot.facts, indent=1).encode())
        made.seal({"step": snapshot.step, "number": number})

    def _tidied(self) -> list[ListedCheckpoint]:
        """The checkpoints in their order, after what a lost process left was put back or removed."""
        self._sweep()
        for before in self.folder.glob("step-*" + BEFORE):
            target = before.with_name(before.name.removesuffix(BEFORE))
            if not target.exists():
                before.rename(target)
        return list_checkpoints(self.folder)

    def _put_aside(self, target: Path) -> None:
        """Make room for a checkpoint; what is there stays whole under another name, should this process end here."""
        if not target.exists():
            return
        before = target.with_name(target.name + BEFORE)
        if before.exists():
            self._hide(before if looks_whole(ListedCheckpoint(target)) else target)
        if target.exists():
            target.rename(before)

    def _hide(self, path: Path) -> None:
        """Take a checkpoint away in one step; removing it takes several."""
        gone = self.folder / f".{path.name}.gone"
        if gone.exists():
            shutil.rmtree(gone)
        path.rename(gone)

    def _sweep(self) -> None:
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left)

    def _point(self, name: str, target: Path) -> None:
        try:
            self._link(name, target)
        except OSError as error:
            told = f"cannot be made to say {target.name} ({reason_of(error)})"
            raise Failure(
                f"{self.folder / name}: {told}; free space and start again with the same command{self._promise()}"
            ) from error

    def _link(self, name: str, target: Path) -> None:
        link, beside = self.folder / name, self.folder / f".{name}.partial"
        if link.is_symlink() and link.readlink() == Path(target.name):
            return
        beside.unlink(missing_ok=True)
        beside.symlink_to(target.name)
        beside.replace(link)
        sync(self.folder)

    def _forget_old(self) -> None:
        """Remove what is older than the newest ones that look whole, save the best."""
        found, best = list_checkpoints(self.folder), self.best()
        for one in found:
            if one.unread:  # whatever it holds, it may be the best
                raise one.unread
        aside = [one for one in found if one.path.name.endswith(BEFORE)]
        counted = [one for one in found if one not in aside and one.path.name not in self._passed_over]
        kept = [one for one in counted if looks_whole(one)][-self.keep :]
        older = found[: found.index(kept[0])] if len(kept) == self.keep else []
        for one in {one.path: one for one in [*aside, *older]}.values():
            if one.path != best:
                self._hide(one.path)
        self._sweep()

    def _promise(self) -> str:
        """What a run that is started again goes on from; '' where nothing is left."""
        whole = [one for one in list_checkpoints(self.folder) if looks_whole(one)]
        return f", it goes on from {whole[-1].path.name}" if whole else ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder, a safetensors file or a published one; nothing is unpickled blindly.

    Raises:
        DataError: missing, truncated, or it holds more than tensors.
    """
    if checkpoint_at(path).is_dir():
        path = path / WEIGHTS
    if path.name == WEIGHTS:
        verify_file(path)
    state: Any = _read_safely(path) if path.suffix == ".safetensors" else load_restricted(path)
    parts = state.get("model") if isinstance(state, dict) else None
    if is_parts(parts):
        return join_parts(parts)
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not is_state(state):
        raise DataError(f"{path}: holds more than named tensors; save the model's state dict alone")
    return dict(state)


def _read_safely(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a whole checkpoint ({first_line(error)}); copy or save it again") from error


def read_state(folder: Path) -> dict[str, Any]:
    """What an exact resume needs besides the weights.

    Raises:
        DataError: it is not what was written.
    """
    path = verify_file(folder / STATE)
    try:
        return torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch raises what its reader of the day stumbles over
        raise DataError(
            f"{folder / STATE}: not whole ({first_line(error)}); name an older checkpoint with --resume"
        ) from error


def read_run(path: Path) -> dict[str, Any]:
    """What the config.json of a checkpoint says of the run that made it; empty for weights that came without.

    Args:
        path: the checkpoint's folder, or the file of weights in it.

    Raises:
        DataError: it is not what was written.
    """
    config = (path.parent if path.name == WEIGHTS else path) / CONFIG
    if not config.parent.is_dir() or not verify_file(config).exists():
        return {}
    found = read_json(config, "copy or save the checkpoint again")
    if not isinstance(found, dict):
        raise DataError(f"{config}: is no JSON object; copy or save the checkpoint again")
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint notes about itself: step, run and vocabulary; see `read_run`."""
    return read_run(path).get("_note", {})


def first_line(error: BaseException) -> str:
    """The gist of an error of another library."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def reason_of(error: BaseException) -> str:
    """The gist of why a write failed: torch tells only that one fell short; why it did is an error before."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return first_line(cause or error)
