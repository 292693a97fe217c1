"""Writers that leave all or nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import DataError
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter


def interrupted(folder: Path) -> None:
    """One record of a packing that fails."""
    with LmdbWriter(folder) as writer:
        writer.put("a", b"1")
        raise RuntimeError


def test_a_store_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "store") as writer:
        writer.put("a", b"1")
        writer.commit()
        assert not (tmp_path / "store").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_after_an_error_the_work_is_kept_and_taken_up(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with LmdbWriter(tmp_path / "store") as writer:
        assert writer.keys() == ["a"]
        writer.put("b", b"2")
    assert LmdbStore(tmp_path / "store").keys() == ["a", "b"]


def test_a_fresh_writer_drops_the_remains(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "store")
    with LmdbWriter(tmp_path / "store", fresh=True) as writer:
        assert writer.keys() == []


def test_an_existing_store_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with LmdbWriter(folder) as writer:
        writer.put("a", b"1")
    before = (folder / "data.mdb").read_bytes()
    with pytest.raises(DataError, match="exists; remove it or choose another output"):
        LmdbWriter(folder)
    assert (folder / "data.mdb").read_bytes() == before


def test_keys_that_lmdb_cannot_hold_are_named(tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "store") as writer, pytest.raises(DataError, match="kkk cannot be written"):
        writer.put("k" * 600, b"1")


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"/file is a file, not a folder; choose another output"):
        LmdbWriter(tmp_path / "file" / "deeper" / "store")
    (tmp_path / "store.partial").touch()
    with pytest.raises(DataError, match=r"store\.partial is a file, not a folder"):
        LmdbWriter(tmp_path / "store")


def test_what_is_stored_so_far_can_be_read_back(tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "store") as writer:
        writer.put("a", b"1")
        assert (writer.get("a"), writer.get("b")) == (b"1", None)


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "store") as writer:
        writer.put("a", b"1")
        with pytest.raises(DataError, match="another process is writing"):
            LmdbWriter(tmp_path / "store")


KILLED = """
import sys
from data.stores.lmdb_writer import LmdbWriter
writer = LmdbWriter(sys.argv[1], commit_every=10)
for number in range(25):
    writer.put(f"key{number:03d}", b"x" * 100)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store")]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    with LmdbWriter(tmp_path / "store") as writer:
        assert writer.keys() == [f"key{number:03d}" for number in range(20)]


def test_keys_that_are_no_text_are_named(tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "store") as writer:
        with pytest.raises(DataError, match=r"'\\udcff\.npz' cannot be a name, it is no UTF-8; rename it"):
            writer.put("\udcff.npz", b"1")
        writer.put("a", b"1")
    assert LmdbStore(tmp_path / "store").keys() == ["a"]
