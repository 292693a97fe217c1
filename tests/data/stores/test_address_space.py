"""Stores are packed and read under `ulimit -v`; where that leaves too little, one line says how much is needed."""

from __future__ import annotations

import errno
import re
import resource
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from data.stores import address_space
from data.stores.address_space import is_exhausted, too_little
from data.stores.lmdb_store import LmdbStore
from tests.support import ROOT, environment

MEBIBYTE = 1 << 20

PACK = """
import resource, sys
from pathlib import Path
import numpy as np
from config.errors import DataError, Failure
from data.stores.image_writer import ImageWriter
from data.stores.image_store import ImageStore
from data.stores.picture_store import PictureWriter
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter
from data.stores.text_store import TextStore, TextWriter
from tests.arrays import extracted
from tests.data.stores.test_address_space import META

def limit(mebibytes):
    most = mebibytes << 20 if mebibytes else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

folder = Path(sys.argv[1])
limit(int(sys.argv[2]))
"""
META = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 50]}

ALL_WRITERS = PACK + """
with ImageWriter(folder / "img") as writer:
    for number in range(400):
        writer.add(f"{number}.npz", **extracted(number, rows=50, width=2048))
with PictureWriter(folder / "img") as writer:
    for number in range(90):
        writer.put(f"{number}.npz", bytes([number]) * 1_000_000)
with TextWriter(folder / "toy.db", META) as writer:
    for number in range(3000):
        writer.add(str(number), {"input_ids": [5, 6], "img_fname": f"{number}.npz", "raw": "x" * 100})
store = ImageStore(folder / "img")
assert store.damaged(store.names) == []
assert len(TextStore(folder / "toy.db")) == 3000
"""

TOO_LARGE = PACK + """
try:
    with LmdbWriter(folder / "store") as writer:
        for number in range(1500):
            writer.put(f"{number:04d}", bytes([number % 256]) * (1 << 20))
except Failure as error:
    print(error)
limit(0)
with LmdbWriter(folder / "store") as writer:
    kept = len(writer.keys())
    assert kept > 64, kept
limit(int(sys.argv[2]))
try:
    LmdbStore(folder / "store").keys()
    print("read")
except DataError as error:
    print(error)
"""


def run(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, with what is limited there."""
    command, few = [sys.executable, "-c", program, *map(str, words)], environment() | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=few, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    store = LmdbStore(folder)
    return {key: bytes(store.get(key)) for key in store}


@pytest.mark.slow
def test_every_writer_gives_the_same_under_a_limit(tmp_path: Path) -> None:
    for name, mebibytes in (("limited", 1024), ("free", 0)):
        done = run(ALL_WRITERS, tmp_path / name, str(mebibytes))
        assert done.returncode == 0, done.stderr
    for store in ("img/native_th0.2_max100_min10", "img/pictures", "toy.db"):
        assert contents(tmp_path / "limited" / store) == contents(tmp_path / "free" / store)


@pytest.mark.slow
def test_a_store_larger_than_the_limit_says_how_much_it_needs(tmp_path: Path) -> None:
    done = run(TOO_LARGE, tmp_path, "700")
    assert done.returncode == 0, done.stderr
    written, read = done.stdout.splitlines()
    told = r"(\d+) bytes cannot be mapped, the address space is limited to 716800 KiB; set `ulimit -v (\d+)` or more"
    promised = "or unlimited, and start again: what is committed is kept"
    found = re.fullmatch(rf".*/store\.partial: {told}, {promised}", written)
    assert found, written
    assert int(found[2]) > 716800
    assert read == "read" or re.fullmatch(rf".*/store/data\.mdb: {told}, or unlimited", read), read


READ = PACK + """
import data.stores.lmdb_pages
size = (folder / "data.mdb").stat().st_size
limit(1 + data.stores.address_space._mapped() // (1 << 20) + size // 2 // (1 << 20))
for _ in range(2):
    try:
        LmdbStore(folder).keys()
    except DataError as error:
        print(error)
limit(0)
print(len(LmdbStore(folder).keys()))
"""


@pytest.mark.parametrize("sealed", [True, False])
def test_reading_says_how_much_it_needs(sealed: bool, tmp_path: Path) -> None:
    from data.stores.lmdb_writer import LmdbWriter

    with LmdbWriter(tmp_path / "store") as writer:
        writer.put("a", bytes(200 * MEBIBYTE))
    if not sealed:
        (tmp_path / "store" / "seal.json").unlink()
    done = run(READ, tmp_path / "store", "0")
    assert done.returncode == 0, done.stderr
    *refused, there = done.stdout.splitlines()
    assert there == "1"
    size = (tmp_path / "store" / "data.mdb").stat().st_size
    told = rf".*/store/data\.mdb: {size} bytes cannot be mapped, .* set `ulimit -v \d+` .*"
    for line in refused:
        assert re.fullmatch(told, line), line
    assert len(refused) == 2


def test_stores_that_others_packed_into_a_tebibyte_are_read_under_a_limit(tmp_path: Path) -> None:
    """The published packers map a tebibyte, and the file keeps that number."""
    with lmdb.open(str(tmp_path / "store"), map_size=1 << 40) as environment, environment.begin(write=True) as writer:
        writer.put(b"a", b"1")
    done = run(PACK + "print(LmdbStore(folder / 'store').keys())", tmp_path, "2048")
    assert (done.stdout, done.stderr) == ("['a']\n", "")


def test_without_a_limit_there_is_no_talk_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert too_little(5) == "5 bytes cannot be mapped into memory; use a machine with more"


def test_the_advice_leaves_room_for_what_is_mapped_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2048, 2048))
    monkeypatch.setattr(address_space, "_mapped", lambda: 10_240)
    assert "limited to 2 KiB; set `ulimit -v 15` or more" in too_little(4097)


def test_only_memory_counts_as_exhausted() -> None:
    assert is_exhausted(OSError(errno.ENOMEM, "no memory"))
    assert is_exhausted(MemoryError())
    assert not is_exhausted(OSError(errno.ENOSPC, "no space"))
