"""A long computation in chunks, one file each: ranks share them, and finished ones are not computed again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import DataError
from data.batches.pairs import Array
from data.files import read_checked_array, write_checked_array
from train.distributed.comm import Comm

Said = Callable[[int, int], object]
"""Called with (pieces done, pieces in all) of this rank."""


@dataclass(frozen=True)
class ResumableChunks:
    """Arrays by name in a folder that all ranks see, and that is named after all that decides them."""

    folder: Path
    names: Sequence[str]
    comm: Comm

    @property
    def mine(self) -> list[int]:
        """The numbers of this rank's pieces."""
        return list(range(self.comm.rank, len(self.names), self.comm.size))

    @property
    def left(self) -> list[int]:
        """Those of this rank that are not there yet, or not whole."""
        return [number for number in self.mine if not _is_whole(self.folder / self.names[number])]

    def make(self, numbers: Sequence[int], work: Callable[[int], Array], said: Said) -> None:
        """Compute the pieces `numbers`, the last ones of this rank's."""
        of = len(self.mine)
        for done, number in enumerate(numbers, of - len(numbers) + 1):
            write_checked_array(self.folder / self.names[number], work(number))
            self.comm.progress.advance()
            said(done, of)

    def read(self) -> Iterator[Array]:
        """All pieces in order, once every rank has made its own."""
        for name in self.names:
            yield read_checked_array(self.folder / name)
            self.comm.progress.advance()

    def clear(self) -> None:
        """Remove them."""
        shutil.rmtree(self.folder)


def _is_whole(path: Path) -> bool:
    """Whether a finished piece is there; one that was damaged since is made again."""
    try:
        return path.exists() and read_checked_array(path) is not None
    except DataError:
        return False
