"""One environment a process, after forks too; errors that help."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path

import lmdb
import pytest

from config.errors import DataError
from data.stores.lmdb_store import LmdbStore, nearest
from data.stores.lmdb_writer import LmdbWriter


def filled(folder: Path, records: int = 30) -> Path:
    with LmdbWriter(folder) as writer:
        for number in range(records):
            writer.put(f"key{number:03d}", f"value{number}".encode())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "store")


def test_reads_what_was_written(folder: Path) -> None:
    store = LmdbStore(folder)
    assert bytes(store.get("key007")) == b"value7"
    assert len(store) == 30
    assert store.keys() == [f"key{number:03d}" for number in range(30)]
    assert "key029" in store
    assert "key030" not in store


def test_values_are_read_only_views_of_the_map(folder: Path) -> None:
    value = LmdbStore(folder).get("key000")
    assert isinstance(value, memoryview)
    assert value.readonly


def test_reading_creates_no_file(folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    LmdbStore(folder).get("key000")
    assert sorted(path.name for path in folder.iterdir()) == before == ["data.mdb", "seal.json"]


def test_nothing_is_opened_before_the_first_use(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "later")
    filled(tmp_path / "later")
    assert len(store) == 30


def test_two_stores_on_a_folder_share_one_environment(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    first, second = LmdbStore(folder), LmdbStore(tmp_path / "link")
    assert bytes(first.get("key001")) == bytes(second.get("key001"))
    first.close()
    assert bytes(second.get("key002")) == b"value2"


def test_the_environment_is_closed_with_its_last_store(folder: Path) -> None:
    store = LmdbStore(folder)
    store.get("key000")
    with pytest.raises(lmdb.Error, match="already open"):
        lmdb.open(str(folder), readonly=True, lock=False)
    store.close()
    gc.collect()
    lmdb.open(str(folder), readonly=True, lock=False).close()
    assert bytes(store.get("key000")) == b"value0"


def test_missing_key_names_the_store_and_near_keys(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        LmdbStore(folder).get("key07")
    message = str(caught.value)
    assert str(folder) in message
    assert "'key07'" in message
    assert len(message.split("near: ")[1].split(", ")) == 3
    assert "key007" in message


def test_near_keys_begin_or_end_alike() -> None:
    keys = [f"coco_train2014_{number:012d}.npz" for number in range(10_000)]
    assert nearest("coco_train2014_00000004321.npz", keys)[0] == keys[4321]
    assert keys[4321] in nearest("coco_val2014_000000004321.npz", keys)
    assert keys[4321] in nearest("coco_train2014_000000004321", keys)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is no store.*data\.mdb"):
        LmdbStore(tmp_path / "nowhere").get("a")


def test_shortened_file_is_refused_before_it_is_read(folder: Path) -> None:
    data = folder / "data.mdb"
    os.truncate(data, data.stat().st_size - 4096)
    with pytest.raises(DataError, match="cut short"):
        LmdbStore(folder).get("key000")


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_other_files_are_refused(folder: Path, content: bytes) -> None:
    (folder / "data.mdb").write_bytes(content)
    with pytest.raises(DataError, match=r"cut short|not as it was packed"):
        LmdbStore(folder).get("key000")
    (folder / "seal.json").unlink()
    with pytest.raises(DataError, match=r"cannot be opened|cut short"):
        LmdbStore(folder).get("key000")


# ---------------------------------------------------------------- processes and threads


def read_all(store: LmdbStore) -> list[bytes]:
    return [bytes(store.get(key)) for key in store]


def test_forked_children_read_after_the_parent_has(folder: Path) -> None:
    store, other = LmdbStore(folder), LmdbStore(folder)
    expected = read_all(store)
    assert read_all(other) == expected
    child = os.fork()
    if child == 0:
        good = read_all(store) == expected and read_all(other) == expected
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_all(store) == expected


def test_a_forked_child_has_an_environment_of_its_own(folder: Path) -> None:
    store = LmdbStore(folder)
    store.get("key000")
    child = os.fork()
    if child == 0:
        store.get("key000")
        os._exit(0 if store._shared is not None and store._shared.pid == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_forked_grandchildren_read(folder: Path) -> None:
    store = LmdbStore(folder)
    expected = read_all(store)
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if read_all(store) == expected else 1)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_stores_travel_to_worker_processes(folder: Path, method: str) -> None:
    store = LmdbStore(folder)
    expected = read_all(store)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_all, [store, store]) == [expected, expected]


def test_pickles_without_its_environment(folder: Path) -> None:
    store = LmdbStore(folder)
    expected = read_all(store)
    assert read_all(pickle.loads(pickle.dumps(store))) == expected


def test_a_fork_while_a_thread_reads_leaves_the_child_free_to_read(folder: Path) -> None:
    store = LmdbStore(folder)
    store.get("key007")
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: send.send(bytes(store.get("key008"))))
    assert store._shared is not None
    with store._shared._one_at_a_time:
        child.start()
    assert receive.poll(20)
    assert receive.recv() == b"value8"
    child.join()


def test_threads_share_a_store(folder: Path) -> None:
    store = LmdbStore(folder)
    results: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: results.append(read_all(store))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(result == results[0] and len(result) == 30 for result in results)


def test_a_copied_store_can_be_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert read_all(LmdbStore(tmp_path / "copy")) == read_all(LmdbStore(folder))
