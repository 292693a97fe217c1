"""Key-value folders (LMDB), read without locks and opened once in each process."""

from __future__ import annotations

import bisect
import difflib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import crc32c
import lmdb

from config.errors import DataError
from data.stores.address_space import is_exhausted, too_little
from data.stores.seal import check_keys


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Tell what LMDB stumbles over in a damaged file in one line."""
    try:
        yield
    except (lmdb.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}/data.mdb is damaged ({error}); copy or pack the store again") from error


class _Environment:
    """The one read-only environment that this process has on a folder, opened again after a fork."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = -1
        self.lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._environment: Any = None
        self._transaction: Any = None
        self._is_checked = False

    def transaction(self) -> Any:
        """The long-lived read transaction of the calling process."""
        if self.pid != os.getpid():
            with self.lock:
                if self.pid != os.getpid():
                    self._open()
        return self._transaction

    def get(self, key: bytes) -> Any:
        """The value of a key, or None; threads may ask at once, though a transaction answers one at a time."""
        transaction = self.transaction()
        with self._one_at_a_time, _readable(self.path):
            return transaction.get(key)

    def _open(self) -> None:
        self._one_at_a_time = threading.Lock()  # a thread that was not forked may have held the old one
        self._let_go()  # what was inherited through fork: lmdb counts it as open until it is closed
        data = Path(self.path, "data.mdb")
        try:
            present = data.stat().st_size
            with data.open("rb"):
                pass
            if not self._is_checked:  # LMDB ends the process over a damaged file; a fork inherits what was found
                check_keys(Path(self.path))
                self._is_checked = True
            self._environment = lmdb.open(self.path, readonly=True, lock=False, create=False)
            self._check_length(present)
            self._transaction = self._environment.begin(buffers=True)
        except (lmdb.Error, OSError) as error:
            raise self._refused(error) from error
        self.pid = os.getpid()

    def _let_go(self) -> None:
        if self._transaction is not None:
            self._transaction.abort()
        if self._environment is not None:
            self._environment.close()
        self._transaction = self._environment = None

    def _refused(self, error: Exception) -> DataError:
        """The error for a file that the system does not let be read, or LMDB does not take for its own."""
        data = Path(self.path, "data.mdb")
        if isinstance(error, lmdb.MemoryError) or is_exhausted(error):
            return DataError(f"{data}: {too_little(data.stat().st_size)}")
        if isinstance(error, OSError):
            return DataError(f"{data} cannot be read ({error.strerror}); see to its permissions and its disk")
        return DataError(f"{self.path} cannot be opened as a store ({error}); pack it again")

    def _check_length(self, present: int) -> None:
        # Reading a page behind the end of a shortened file would end the process with a bus error.
        needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if present < needed:
            raise DataError(f"{self.path}/data.mdb is cut short: {present} of {needed} bytes; copy it again")


_environments: WeakValueDictionary[str, _Environment] = WeakValueDictionary()
_registry = threading.Lock()


def _environment(path: Path) -> _Environment:
    """The environment of a folder, shared: lmdb refuses to open one path twice in a process."""
    with _registry:
        key = str(path.resolve())
        shared = _environments.get(key)
        if shared is None:
            shared = _environments[key] = _Environment(key)
        return shared


class LmdbStore:
    """A read-only folder of key-value records; it may be pickled and forked, each process opens its own."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._shared: _Environment | None = None

    def _opened(self) -> _Environment:
        shared = self._shared
        if shared is None:
            if not (self.path / "data.mdb").is_file():
                raise DataError(f"{self.path} is no store: it holds no data.mdb; check the path or pack it")
            shared = self._shared = _environment(self.path)
        return shared

    def _reader(self) -> Any:
        return self._opened().transaction()

    def get(self, key: str) -> memoryview:
        """The value as a view into the map, valid while this store is open in this process.

        Raises:
            DataError: no such key; the message names the store and the three nearest keys.
        """
        value = self._opened().get(key.encode())
        if value is None:
            raise missing(self.path, key, self.keys())
        return memoryview(value)

    def keys(self) -> list[str]:
        """All keys in byte order, index keys included."""
        reader = self._reader()
        with _readable(self.path):
            return [bytes(key).decode() for key in reader.cursor().iternext(keys=True, values=False)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: str) -> bool:
        return self._opened().get(key.encode()) is not None

    def __len__(self) -> int:
        return int(self._reader().stat()["entries"])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_shared": None}

    def close(self) -> None:
        """Let go of the environment; it is closed when no other store of this process uses it."""
        self._shared = None


def read_back(path: Path, checksums: Mapping[str, int]) -> None:
    """Read all records of a finished store; raises DataError where one is not what was written."""
    store = LmdbStore(path)
    for name, checksum in checksums.items():
        if crc32c.crc32c(store.get(name)) != checksum:
            raise DataError(f"{path}: {name} is not what was written; see to the disk, remove the store and pack again")


def missing(path: Path, key: str, keys: Iterable[str]) -> DataError:
    """The error for a key that a store does not hold: names the store and the three nearest keys."""
    near = ", ".join(nearest(key, keys)) or "nothing, the store is empty"
    return DataError(f"{path} holds no {key!r}; near: {near}")


def nearest(key: str, keys: Iterable[str], count: int = 3) -> list[str]:
    """The keys most like `key`, among those that begin or end alike, so that large stores answer at once."""
    ordered = sorted(keys)
    from_the_end = sorted(each[::-1] for each in ordered)
    alike = {*_around(key, ordered), *(each[::-1] for each in _around(key[::-1], from_the_end))}
    return difflib.get_close_matches(key, sorted(alike), n=count, cutoff=0.0)


def _around(key: str, ordered: list[str]) -> list[str]:
    at = bisect.bisect(ordered, key)
    return ordered[max(0, at - 100) : at + 100]
