"""Key-value folders (LMDB), written beside the target and renamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import lmdb

from config.errors import DataError, Failure
from data.stores.address_space import is_exhausted, too_little
from data.stores.growing_map import START, GrowingMap
from data.stores.seal import write_seal

COMMIT_BYTES = 1 << 26
"""Bytes that wait for a commit at most: they are in memory."""
BEGUN = 8192
"""Bytes of a data.mdb to which nothing has been committed yet; fewer were cut off."""


class LmdbWriter:
    """Writes `<path>.partial` and renames it to `path` on a clean exit, so that `path` is complete or absent.

    A partial folder left behind by a killed run is taken up again; `keys()` tells what it already holds.
    """

    def __init__(
        self, path: str | Path, map_size: int = START, commit_every: int = 1000, fresh: bool = False
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._commit_every = commit_every
        self._pending = self._pending_bytes = 0
        if self.path.exists():
            raise DataError(f"{self.path} exists; remove it or choose another output")
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._claim = os.open(self.partial, os.O_RDONLY)
        except (FileExistsError, NotADirectoryError) as error:
            above = (self.partial, *self.partial.parents)
            blocking = next(path for path in above if path.exists() and not path.is_dir())
            raise DataError(f"{blocking} is a file, not a folder; choose another output") from error
        except OSError as error:
            raise self.failure(error) from error
        try:
            self._claim_folder()
            if fresh:
                for name in self.partial.iterdir():
                    name.unlink()
            data = self.partial / "data.mdb"
            if data.exists() and data.stat().st_size < BEGUN:
                data.unlink()  # begun on a full disk: nothing was ever committed to it
            self._map = GrowingMap(self.partial, map_size)
        except (lmdb.Error, OSError) as error:
            os.close(self._claim)
            raise self.failure(error) from error
        except DataError:
            os.close(self._claim)
            raise

    def failure(self, error: Exception) -> Failure:
        """The error of a writer that disk or memory has let down."""
        if isinstance(error, lmdb.MemoryError) or is_exhausted(error):
            data = self.partial / "data.mdb"
            told = too_little((data.stat().st_size if data.exists() else 0) + 2 * COMMIT_BYTES)
            return Failure(f"{self.partial}: {told}, and start again: what is committed is kept")
        reason = getattr(error, "strerror", None) or error
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
        """Store a record, replacing one of the same key; committed with every `commit_every` records, or much data.

        Raises:
            DataError: the key is too long, or no text.
            Failure: there is no room.
        """
        try:
            self._map.put(key.encode(), value)
        except UnicodeEncodeError as error:
            raise DataError(f"{self.partial}: {key!r} cannot be a name, it is no UTF-8; rename it") from error
        except lmdb.BadValsizeError as error:
            raise DataError(f"{self.partial}: {key} cannot be written ({error})") from error
        except lmdb.Error as error:
            raise self.failure(error) from error
        self._pending += 1
        self._pending_bytes += len(value)
        if self._pending >= self._commit_every or self._pending_bytes >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Make everything that was put survive a kill.

        Raises:
            Failure: there is no room, or the disk fails; what was committed before stays.
        """
        try:
            self._map.commit()
        except lmdb.Error as error:
            raise self.failure(error) from error
        self._pending = self._pending_bytes = 0

    def keys(self) -> list[str]:
        """What is stored so far, in byte order."""
        return [key.decode() for key in self._map.transaction.cursor().iternext(keys=True, values=False)]

    def get(self, key: str) -> bytes | None:
        """What is stored so far under a key."""
        found: bytes | None = self._map.transaction.get(key.encode())
        return found

    def release(self) -> None:
        """Commit and let go of the partial folder, which a later writer may take up."""
        try:
            self.commit()
        finally:
            self._map.close()
            os.close(self._claim)

    def finish(self, beside: Iterable[Path] = ()) -> None:
        """Commit, seal the files of the folder and those `beside` it, and turn the partial folder into the store."""
        self.release()
        try:
            (self.partial / "lock.mdb").unlink(missing_ok=True)
            write_seal(self.partial, beside)
            os.rename(self.partial, self.path)
        except OSError as error:
            raise self.failure(error) from error

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
            raise self.failure(error) from error
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
