"""The checkpoints of a folder in the order of saving, and the newest that is whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from config.errors import DataError
from train.checkpointing.manifest import Flaw, Manifest, read_manifest, verify

BEFORE = ".before"
"""The ending of a checkpoint that was put aside while another of its step takes its place."""
NAME = re.compile(rf"step-\d{{8,}}({re.escape(BEFORE)})?")
Said = Callable[[str], None]


@dataclass(frozen=True)
class ListedCheckpoint:
    """A checkpoint's folder with its manifest, or with the reason why that tells nothing."""

    path: Path
    manifest: Manifest | None = None
    unread: OSError | None = None

    @property
    def number(self) -> int:
        """Its place in the order of saving, which is not always that of steps; 0 where the manifest tells nothing."""
        return self.manifest.notes.get("number", 0) if self.manifest else 0


def list_checkpoints(folder: Path) -> list[ListedCheckpoint]:
    """All checkpoints, oldest first, those whose manifests tell nothing before all others."""
    found = []
    for path in folder.glob("step-*"):
        if NAME.fullmatch(path.name) and path.is_dir():
            try:
                found.append(ListedCheckpoint(path, read_manifest(path)))
            except Flaw:
                found.append(ListedCheckpoint(path))
            except OSError as error:
                found.append(ListedCheckpoint(path, unread=error))
    return sorted(found, key=lambda one: (one.manifest is not None, one.number, one.path.name))


def looks_whole(found: ListedCheckpoint) -> bool:
    """Whether all files are there in their sizes."""
    try:
        verify(found.path, deep=False)
    except Flaw:
        return False
    return True


def newest_whole(folder: Path, said: Said) -> Path | None:
    """The newest checkpoint that is whole; None where there is not one, damaged or not.

    Args:
        said: is told of each that is passed over, and why; one whose manifest tells nothing may have been the newest.

    Raises:
        DataError: there are some, and all are damaged.
    """
    flaws = []
    for one in sorted(
        list_checkpoints(folder), key=lambda one: (one.manifest is None, one.number, one.path.name), reverse=True
    ):
        try:
            verify(one.path)
        except Flaw as flaw:
            flaws.append(f"{one.path}: {flaw}")
            continue
        for line in flaws:
            said(f"{line}; going on with {one.path.name}")
        return one.path
    if flaws:
        told = "; ".join(flaws)
        raise DataError(f"{told}; none is whole: name other weights by their path, or use another output folder")
    return None


def locate_checkpoint(folder: Path, name: str) -> Path | None:
    """The folder of a checkpoint, which a lost process may have put aside."""
    places = (folder / name, folder / (name + BEFORE))
    return next((place for place in places if name and place.is_dir()), None)
