"""The LMDB environment of a writer, whose memory map grows with its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb

START = 1 << 26
"""Bytes that are mapped at first. A map takes address space, which schedulers limit; on disk it takes nothing."""
SPARE = 64
RECORD_SPARE = 16
"""Pages that a commit, and a record besides its value, take at most: what they change is copied first."""


class GrowingMap:
    """One write transaction after the other on a folder that nobody else writes to.

    Room for a record is made before it is put, so that no transaction meets the end of the map and is lost.

    Raises:
        lmdb.Error: the folder cannot be opened, or the disk fails; lmdb.MemoryError: there is too little address
            space, and what was committed is kept.
    """

    def __init__(self, folder: Path, start: int = START) -> None:
        self._folder = str(folder)
        self._open(start)

    def _open(self, size: int) -> None:
        # The writer's claim keeps others out; LMDB's own locks would need more of the file system.
        self._environment: Any = lmdb.open(self._folder, map_size=size, lock=False)
        self._begin()

    def _begin(self) -> None:
        facts = self._environment.info()
        self._size, self._page = facts["map_size"], self._environment.stat()["psize"]
        self._room = self._size - (facts["last_pgno"] + 1 + SPARE) * self._page
        self.transaction: Any = self._environment.begin(write=True)

    def put(self, key: bytes, value: bytes) -> None:
        """Store a record, replacing one of the same key; commits first where the map has to grow for it.

        Raises:
            lmdb.BadValsizeError: the key is empty or too long; nothing is lost.
            lmdb.Error: disk or memory fails; what was not committed is lost.
        """
        wanted = len(value) + RECORD_SPARE * self._page
        if wanted > self._room:
            self.commit()
            self._grow(wanted + SPARE * self._page)
        self._room -= wanted
        try:
            self.transaction.put(key, value)
        except lmdb.BadValsizeError:
            raise
        except lmdb.Error:
            self._renew()
            raise

    def commit(self) -> None:
        """End the transaction and begin the next, also where it fails."""
        try:
            self.transaction.commit()
        finally:
            self._renew()

    def _renew(self) -> None:
        """Begin from what is committed: a transaction that has failed can only be given up."""
        self.transaction.abort()
        self._begin()

    def _grow(self, least: int) -> None:
        """Map twice as much, or what can be had of that, but `least` more than there is."""
        before = self._size
        self.close()
        more = max(before, least)
        while True:
            try:
                return self._open(before + more)
            except lmdb.MemoryError:
                if more == least:
                    self._open(before)
                    raise
                more = max(more // 2, least)

    def close(self) -> None:
        """Let go of the file; what was not committed is lost."""
        self.transaction.abort()
        self._environment.close()
