"""The output folder of a mining job: refuses other lists, and survives a kill at any moment.

Everything unfinished lies in a folder below it, under the facts that decide the lists. Once all is made, a note there
tells what goes where; from then on a start does nothing but carry that note out, whatever is done of it already.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import ConfigError
from data.batches.candidates import CHECKSUMS, MANIFEST
from data.files import crc_of, read_json, write_json
from train.mining.embed import IMAGES, TEXTS
from train.mining.manifest import Facts
from train.mining.storage import saving, sync

LISTS = ("i2t", "t2i")
UNFINISHED, FACTS, WHOLE = ".unfinished", "job.json", "whole.json"
REMEDY = "remove the folder and mine again"


@dataclass(frozen=True)
class OutputFolder:
    """Where the lists called `name` that `facts` decide go, and `work`, where they are made.

    One rank writes here; all may ask.
    """

    folder: Path
    name: str
    facts: Facts

    @property
    def work(self) -> Path:
        return self.folder / UNFINISHED

    def of(self, what: str) -> Path:
        """The finished file of a list, or of what is kept beside it."""
        return self.folder / f"{what}_{self.name}.npy"

    def check(self, overwrite: bool) -> None:
        """Raise ConfigError where other lists are there, unless they may be overwritten.

        Lists of another name may not: training would not know which to take.
        """
        ours = [self.of(name) for name in LISTS]
        others = {path for name in LISTS for path in self.folder.glob(f"{name}_*.npy")} - set(ours)
        if others:
            raise ConfigError(f"{self.folder}: holds {min(others).name} already; mine into another folder (--lists), "
                              "or give the same --name")
        known = (self.folder / MANIFEST).exists()
        right = self._says(self.folder / MANIFEST) if known else not any(path.exists() for path in ours)
        if not (right or overwrite or self.is_whole()):
            raise ConfigError(f"{self.folder}: holds lists of other weights or settings; mine into another folder "
                              "(--lists), or replace them with --overwrite")

    def is_done(self) -> bool:
        """Whether the lists are there already."""
        return self._says(self.folder / MANIFEST) and all(self.of(name).exists() for name in LISTS)

    def is_whole(self) -> bool:
        """Whether all is made and only has to be put in its place."""
        if not (self._noted() == self.facts and (self.work / WHOLE).exists()):
            return False
        moves = read_json(self.work / WHOLE, REMEDY)["moves"]
        return all((self.work / made).exists() or (self.folder / goal).exists() for made, goal in moves)

    def _says(self, manifest: Path) -> bool:
        """Whether a manifest is there and tells of these facts."""
        known = read_json(manifest, REMEDY) if manifest.exists() else {}
        return all(name in known and known[name] == value for name, value in self.facts.items())

    def _noted(self) -> Facts | None:
        """Whose the unfinished folder is."""
        noted = self.work / FACTS
        return read_json(noted, REMEDY) if noted.exists() else None

    def claim(self, said: Callable[[str], object]) -> None:
        """Mark the unfinished folder as this job's; what another one left there goes."""
        known = self._noted()
        if known == self.facts:
            return
        if known is not None:
            said(f"{self.work}: an unfinished job of other weights or settings is dropped")
        with saving(self.work):
            if self.work.exists():
                self._disown()
                shutil.rmtree(self.work)
            self.work.mkdir(parents=True)
            write_json(self.work / FACTS, self.facts, indent=1)

    def clear(self) -> None:
        """Remove the unfinished folder, where it is this job's or nobody's."""
        if self._noted() in (None, self.facts):
            self._disown()
            # On a shared disk, files that other ranks have not closed yet stay a while: they are nobody's now.
            shutil.rmtree(self.work, ignore_errors=True)

    def _disown(self) -> None:
        """What is left of the folder, should a kill come in between, is then nobody's."""
        (self.work / FACTS).unlink(missing_ok=True)

    def finish(self, made: Mapping[Path, Path], manifest: dict[str, Any]) -> None:
        """Note that all is made: which files below `work` become which of the folder, and the manifest that follows.

        Raises:
            Failure: the disk is full; what is made is kept.
        """
        for path in made:
            sync(path)
        before = read_json(self.folder / MANIFEST, REMEDY) if (self.folder / MANIFEST).exists() else {}
        gone = [*LISTS, *(f"scores_{name}" for name in LISTS)]
        if before.get("embeddings_kept") and "weights" in self.facts:
            gone += [Path(name).stem for name in (IMAGES, TEXTS)]
        manifest = manifest | {CHECKSUMS: {goal.name: crc_of(path) for path, goal in made.items()}}
        moves = [(path.name, goal.name) for path, goal in made.items()]
        note = {"moves": moves, "gone": [self.of(name).name for name in gone], "manifest": manifest}
        with saving(self.work):
            write_json(self.work / WHOLE, note)

    def publish(self) -> None:
        """Put all in its place, the manifest last; the unfinished folder goes.

        Files of an earlier job go first, so that those of two jobs never stand side by side.

        Raises:
            Failure: the disk is full; the next start goes on here.
        """
        note = read_json(self.work / WHOLE, REMEDY)
        moved = {goal for made, goal in note["moves"] if not (self.work / made).exists()}
        with saving(self.folder):
            for goal in {*note["gone"], *(goal for _, goal in note["moves"])} - moved:
                (self.folder / goal).unlink(missing_ok=True)
            (self.folder / MANIFEST).unlink(missing_ok=True)
            for made, goal in note["moves"]:
                if goal not in moved:
                    (self.work / made).replace(self.folder / goal)
            write_json(self.folder / MANIFEST, note["manifest"], indent=1)
        self.clear()
