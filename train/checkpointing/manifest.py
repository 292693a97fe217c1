"""Sealed folders: all files are forced to disk; the manifest, written last, tells their sizes and checksums.

What a killed program, a full disk or a power failure leaves behind has no manifest, or one that does not fit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter, RawIOBase
from pathlib import Path
from typing import IO, Any, NamedTuple

import crc32c

from config.errors import DataError
from data.files import crc_of, sync

MARK = "complete.json"
BUFFERED = 1 << 22


class Flaw(Exception):
    """What is wrong with a sealed folder, in few words that do not name it."""


class Content(NamedTuple):
    """What a file must hold: its size in bytes, and the CRC32C of them."""

    size: int
    checksum: int


@dataclass(frozen=True)
class Manifest:
    """What the manifest of a folder tells.

    Attributes:
        notes: JSON of whoever sealed it.
        files: all files but the manifest, by name.
    """

    notes: dict[str, Any]
    files: dict[str, Content]


class FolderWriter:
    """A folder that is being written, beside the place where it will be found; made new and empty.

    Args:
        sign: called with every piece that is written.
    """

    def __init__(self, folder: Path, sign: Callable[[], object] = bool) -> None:
        self.folder, self._sign = folder, sign
        self.files: dict[str, Content] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write; on disk, and counted, once the block ends without an error."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        raw = _Counted(os.open(self.folder / name, flags, 0o666), self._sign)
        with BufferedWriter(raw, BUFFERED) as file:
            yield file
            file.flush()
            os.fsync(raw.fileno())
        self.files[name] = Content(raw.size, raw.checksum)

    def seal(self, notes: Mapping[str, Any]) -> None:
        """Write the manifest; nothing is written after it."""
        files = {name: content._asdict() for name, content in self.files.items()}
        plain = {**notes, "files": files}
        with self.file(MARK) as file:
            file.write(json.dumps(plain | {"checksum": _checksum(plain)}, indent=1).encode())
        sync(self.folder)


class _Counted(RawIOBase):
    """A new file whose size and checksum are those of what was meant to be written."""

    def __init__(self, descriptor: int, sign: Callable[[], object]) -> None:
        self._descriptor, self._sign = descriptor, sign
        self.size = self.checksum = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        count = os.write(self._descriptor, view)
        self._sign()
        self.checksum = crc32c.crc32c(view[:count], self.checksum)
        self.size += count
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a sealed folder.

    Raises:
        Flaw: it has none, or a damaged one.
        OSError: it cannot be read now, whatever it holds.
    """
    try:
        plain = json.loads((folder / MARK).read_bytes())
        checksum = plain.pop("checksum")
        files = {name: Content(**content) for name, content in plain.pop("files").items()}
    except FileNotFoundError as error:
        raise Flaw(f"{MARK} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Flaw(f"{MARK} is damaged") from error
    if checksum != _checksum({**plain, "files": {name: content._asdict() for name, content in files.items()}}):
        raise Flaw(f"{MARK} is damaged")
    return Manifest(plain, files)


def verify(folder: Path, deep: bool = True) -> Manifest:
    """The manifest of a sealed folder all of whose files are what was written; their sizes alone unless `deep`.

    Raises:
        Flaw: a file is missing, damaged, or cannot be read.
    """
    try:
        manifest = read_manifest(folder)
    except OSError as error:
        raise Flaw(f"{MARK} cannot be read ({error.strerror})") from error
    for name, content in manifest.files.items():
        _check_file(folder / name, content, deep)
    return manifest


def verify_file(path: Path) -> Path:
    """A file of a sealed folder that is what was written; of a folder without a manifest as it is.

    Raises:
        DataError: it is missing or damaged, or the manifest is.
    """
    try:
        if (path.parent / MARK).exists():
            files = read_manifest(path.parent).files
            if path.name in files:
                _check_file(path, files[path.name], deep=True)
    except OSError as error:
        raise DataError(f"{path.parent / MARK}: cannot be read ({error.strerror}); make it readable") from error
    except Flaw as flaw:
        raise DataError(f"{path.parent}: {flaw}; copy the checkpoint again, or name another") from flaw
    return path


def _check_file(path: Path, content: Content, deep: bool) -> None:
    try:
        size = path.stat().st_size
        same = size == content.size and (not deep or crc_of(path) == content.checksum)
    except FileNotFoundError as error:
        raise Flaw(f"{path.name} is missing") from error
    except OSError as error:
        raise Flaw(f"{path.name} cannot be read ({error.strerror})") from error
    if size != content.size:
        raise Flaw(f"{path.name} has {size} bytes, and {content.size} were written")
    if not same:
        raise Flaw(f"{path.name} does not match its checksum")


def _checksum(plain: dict[str, Any]) -> int:
    """The checksum of JSON values, however they are laid out."""
    return crc32c.crc32c(json.dumps(plain, sort_keys=True).encode())
