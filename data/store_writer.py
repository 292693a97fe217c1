"""Key-value folders (LMDB), written beside and renamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import lmdb

from config.errors import DataError, Failure
from data.seal import write_seal

TEBIBYTE = 1 << 40
BEGUN = 8192
"""Bytes of a data.mdb to which nothing has been committed yet; fewer were cut off."""


class LmdbWriter:
    """Writes `<path>.partial` and renames it to `path` on a clean exit, so that `path` is complete or absent.

    A partial folder left behind by a killed run is taken up again; `keys()` tells what it already holds.
    """

    def __init__(
        self, path: str | Path, map_size: int = TEBIBYTE, commit_every: int = 1000, fresh: bool = False
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._commit_every = commit_every
        self._pending = 0
        if self.path.exists():
            raise DataError(f"{self.path} exists; remove it or choose another output")
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._claim = os.open(self.partial, os.O_RDONLY)
        except OSError as error:
            raise self.failure(error.strerror) from error
        try:
            self._claim_folder()
            if fresh:
                for name in self.partial.iterdir():
                    name.unlink()
            data = self.partial / "data.mdb"
            if data.exists() and data.stat().st_size < BEGUN:
                data.unlink()  # begun on a full disk: nothing was ever committed to it
            # The claim keeps other writers out; LMDB's own locks would need more of the file system.
            self._environment = lmdb.open(str(self.partial), map_size=map_size, lock=False)
            self._transaction = self._environment.begin(write=True)
        except (lmdb.Error, OSError) as error:
            os.close(self._claim)
            raise self.failure(getattr(error, "strerror", None) or error) from error
        except DataError:
            os.close(self._claim)
            raise

    def failure(self, reason: object) -> Failure:
        """The error of a writer that the disk has let down."""
        return Failure(
            f"{self.partial} cannot be written ({reason}); free space or choose another output, and start again: what "
            "is committed is kept"
        )

    def _claim_folder(self) -> None:
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another process is writing {self.partial}; wait for it or stop it") from error
        except OSError as error:
            told = f"its file system cannot lock a folder ({error.strerror}), and two packers at once would spoil it"
            raise DataError(f"{self.partial}: {told}; pack on a local disk and copy the store") from error

    def put(self, key: str, value: bytes) -> None:
        """Store a record, replacing one of the same key; committed with every `commit_every` records.

        Raises:
            DataError: the key is too long.
            Failure: there is no room.
        """
        try:
            self._transaction.put(key.encode(), value)
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise self.failure(error) from error
        except lmdb.Error as error:
            raise DataError(f"{self.partial}: {key} cannot be written ({error})") from error
        self._pending += 1
        if self._pending >= self._commit_every:
            self.commit()

    def commit(self) -> None:
        """Make everything that was put survive a kill.

        Raises:
            Failure: there is no room, or the disk fails; what was committed before stays.
        """
        try:
            self._transaction.commit()
        except lmdb.Error as error:
            raise self.failure(error) from error
        finally:
            self._transaction = self._environment.begin(write=True)
        self._pending = 0

    def keys(self) -> list[str]:
        """What is stored so far, in byte order."""
        return [key.decode() for key in self._transaction.cursor().iternext(keys=True, values=False)]

    def release(self) -> None:
        """Commit and let go of the partial folder, which a later writer may take up."""
        try:
            self.commit()
        finally:
            self._transaction.abort()
            self._environment.close()
            os.close(self._claim)

    def finish(self, beside: Iterable[Path] = ()) -> None:
        """Commit, seal the files of the folder and those `beside` it, and turn the partial folder into the store."""
        self.release()
        try:
            (self.partial / "lock.mdb").unlink(missing_ok=True)
            write_seal(self.partial, beside)
            os.rename(self.partial, self.path)
        except OSError as error:
            raise self.failure(error.strerror) from error

    @contextmanager
    def finishing(self) -> Iterator[list[Path]]:
        """What is written inside belongs to the store, which is finished then; gives a list for files `beside` it.

        Raises:
            Failure: there is no room; the folder is released, and may be taken up again.
        """
        beside: list[Path] = []
        try:
            yield beside
        except OSError as error:
            self.release()
            raise self.failure(error.strerror) from error
        except BaseException:
            self.release()
            raise
        self.finish(beside)

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.release()
