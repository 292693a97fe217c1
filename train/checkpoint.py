"""Checkpoints: folders written beside and renamed, weights without pickle, the newest ones and the best kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from config.errors import DataError, Failure
from train.published import is_parts, joined, unpickled

WEIGHTS, CONFIG, STATE = "model.safetensors", "config.json", "state.pt"


class Checkpoints:
    """The `ckpt` folder of a run: `step-00000500/`, and the links `latest` and `best`."""

    def __init__(self, output_dir: Path, keep: int) -> None:
        self.folder, self.keep = output_dir / "ckpt", keep

    def save(self, step: int, weights: Mapping[str, Tensor], state: dict[str, Any], facts: dict[str, Any]) -> Path:
        """Write a checkpoint and make it the latest.

        Args:
            state: everything else that an exact resume needs; tensors and plain values only.
            facts: JSON for `config.json`: the run, and what it was trained on.

        Raises:
            Failure: the disk is full or cannot be written; what stood there before is untouched.
        """
        target = self.folder / f"step-{step:08d}"
        beside = self.folder / f".step-{step:08d}.partial"
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            whole = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
            save_file(whole, beside / WEIGHTS)
            with (beside / STATE).open("wb") as file:
                torch.save(state, file)
            (beside / CONFIG).write_text(json.dumps(facts, indent=1))
            for path in (*beside.iterdir(), beside):
                sync(path)
            before = self._put_aside(target)
            beside.rename(target)
            sync(self.folder)
            self.point("latest", target)
            shutil.rmtree(before, ignore_errors=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            last = self.latest()
            # torch tells only that a write fell short; why it did is the error before.
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise Failure(
                f"{target}: could not be saved ({first_line(reason)}); free space and start again with the same command"
                + (f", it goes on from {last.name}" if last else "")
            ) from error
        self._forget_old()
        return target

    def _put_aside(self, target: Path) -> Path:
        """Move a checkpoint of the same step away; whole under its new name, should this process end here."""
        before = target.with_name(f"{target.name}.before")
        if target.exists():
            shutil.rmtree(before, ignore_errors=True)
            target.rename(before)
        return before

    def point(self, name: str, target: Path) -> None:
        """Make the link `name` say `target`, in one step."""
        beside = self.folder / f".{name}.partial"
        beside.unlink(missing_ok=True)
        beside.symlink_to(target.name)
        beside.replace(self.folder / name)

    def latest(self) -> Path | None:
        """The newest checkpoint, or None; also where a process ended before it could say which it is."""
        return self._linked("latest") or max(self._saved(), default=None)

    def best(self) -> Path | None:
        """The best checkpoint, or None."""
        return self._linked("best")

    def _linked(self, name: str) -> Path | None:
        link = self.folder / name
        return self.folder / link.readlink() if link.exists() else None

    def _forget_old(self) -> None:
        needed = {path.name for path in (self.latest(), self.best()) if path}
        for path in self._saved()[: -self.keep]:
            if path.name not in needed:
                shutil.rmtree(path)
        for half in self.folder.glob(".step-*.partial"):
            shutil.rmtree(half)

    def _saved(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder, a safetensors file or a published one; nothing is unpickled blindly.

    Raises:
        DataError: missing, truncated, or it holds more than tensors.
    """
    if path.is_dir():
        path = path / WEIGHTS
    if not path.exists():
        raise DataError(f"{path}: no such checkpoint; name a checkpoint folder, a .safetensors, .pt or .pth.tar file")
    state: Any = _read_safely(path) if path.suffix == ".safetensors" else unpickled(path)
    parts = state.get("model") if isinstance(state, dict) else None
    if is_parts(parts):
        return joined(parts)
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not (isinstance(state, dict) and all(isinstance(tensor, Tensor) for tensor in state.values())):
        raise DataError(f"{path}: holds more than named tensors; save the model's state dict alone")
    return state


def _read_safely(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a whole checkpoint ({first_line(error)}); copy or save it again") from error


def read_state(folder: Path) -> dict[str, Any]:
    """What an exact resume needs besides the weights."""
    try:
        return torch.load(folder / STATE, "cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{folder / STATE}: not whole ({first_line(error)}); name an older checkpoint with --resume"
        ) from error


def read_facts(folder: Path) -> dict[str, Any]:
    """What a checkpoint notes about itself: step, run and vocabulary; empty for weights that came without."""
    path = folder / CONFIG
    try:
        return json.loads(path.read_text()).get("_note", {}) if path.exists() else {}
    except ValueError as error:
        raise DataError(f"{path}: not whole ({first_line(error)}); copy or save the checkpoint again") from error


def first_line(error: BaseException) -> str:
    """The gist of an error of another library."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
