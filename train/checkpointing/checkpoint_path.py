"""Paths that should name a checkpoint, checked before anything is built."""

from __future__ import annotations

from pathlib import Path

from config.errors import DataError
from config.paths import WEIGHTS, Kind, PathContent, inspect_path

STATE = "state.pt"
"""What a checkpoint holds beside its weights: all that a run needs to go on from it."""
OTHER_FILES = (".mdb", ".json", ".jsonl", ".npz", ".npy")
"""Endings of files that no weights are in."""
REMEDY = "name a checkpoint folder or a file of weights"
OTHERWISE = {
    "resume": "auto goes on from the newest of output_dir, never begins anew, anything else is a checkpoint's folder",
}
"""What to name, by the setting; REMEDY for any other."""


def checkpoint_at(path: Path, setting: str = "", whole: bool = False) -> Path:
    """The checkpoint at a path, a folder or a file of weights.

    Args:
        setting: what names it.
        whole: with all that a run needs to go on from it, not weights alone.

    Raises:
        DataError: there is none, or it is something else.
    """
    place, name = inspect_path(path), f"{setting}={path}" if setting else str(path)
    if place.kind is Kind.NOTHING:
        raise DataError(f"{name}: no such checkpoint; {_remedy(path, place, setting)}")
    if not _may_be(path, place):
        raise DataError(f"{name}: is {place.words}, no checkpoint; {_remedy(path, place, setting)}")
    if whole and not (path / STATE).is_file():
        raise DataError(f"{name}: holds weights alone, and no state to go on from; start from them with "
                        f"--checkpoint {path}")
    return path


def _may_be(path: Path, place: PathContent) -> bool:
    if path.is_dir():
        return place.kind is Kind.CHECKPOINT or (path / WEIGHTS).exists() or (path / STATE).exists()
    return path.suffix not in OTHER_FILES


def _remedy(path: Path, place: PathContent, setting: str) -> str:
    if place.kind is Kind.RUN:
        return f"name one of its own, such as {path / 'ckpt' / 'best'} or latest beside it"
    return place.advice(OTHERWISE.get(setting, REMEDY), Kind.CHECKPOINT, Kind.FILE, Kind.RUN)
