"""Seals: what was packed is known again, what was changed is named, and what has no seal is read as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from config.errors import DataError
from data.stores import lmdb_pages
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter
from data.stores.seal import SEAL, check_content, check_keys, is_sealed, sealed_json
from tests.data.stores.test_lmdb_pages import packed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with LmdbWriter(tmp_path / "store") as writer:
        (writer.partial / "meta.json").write_text('{"count": 2}')
        (writer.partial / "counts.jsonl").write_text("gone in a moment")
        writer.put("a", b"1")
        writer.put("b", b"2" * 9000)
    return tmp_path / "store"


def test_all_but_records_and_what_goes_is_sealed(folder: Path) -> None:
    assert json.loads((folder / SEAL).read_text())["files"].keys() == {"meta.json"}
    assert is_sealed(folder)
    assert is_sealed(folder, folder / "meta.json")
    assert not is_sealed(folder, folder / "other.json")
    assert sealed_json(folder / "meta.json") == {"count": 2}
    check_keys(folder)


def test_files_beside_the_store_are_sealed_too(tmp_path: Path) -> None:
    (tmp_path / "nbb.json").write_text("{}")
    with LmdbWriter(tmp_path / "store").finishing() as beside:
        beside.append(tmp_path / "nbb.json")
    shutil.move(tmp_path / "store", tmp_path / "renamed")
    assert sealed_json(tmp_path / "nbb.json", tmp_path / "renamed") == {}
    (tmp_path / "nbb.json").write_text("[]")
    with pytest.raises(DataError, match=r"nbb\.json is not as it was packed"):
        sealed_json(tmp_path / "nbb.json", tmp_path / "renamed")


def test_a_changed_file_is_named_with_the_remedy(folder: Path) -> None:
    (folder / "meta.json").write_text('{"count": 3}')
    with pytest.raises(DataError, match=r"meta\.json is not as it was packed \(12 of 12 bytes, or changed ones\); copy "
                                        r"or pack the store again, or remove .*seal\.json if you changed it yourself"):
        sealed_json(folder / "meta.json")
    (folder / SEAL).unlink()
    assert sealed_json(folder / "meta.json") == {"count": 3}


def test_other_keys_are_refused(folder: Path, tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "other") as writer:
        writer.put("a", b"1")
        writer.put("c", b"2" * 9000)
    shutil.copyfile(tmp_path / "other" / "data.mdb", folder / "data.mdb")
    with pytest.raises(DataError, match=r"data\.mdb: its keys are not those that were packed; copy or pack the store"):
        LmdbStore(folder).get("a")


@pytest.mark.parametrize(("bytes_more", "told"), [(-4096, "is cut short"), (4096, "is not as it was packed")])
def test_another_length_is_refused(bytes_more: int, told: str, folder: Path) -> None:
    content = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(content[:bytes_more] if bytes_more < 0 else content + bytes(bytes_more))
    with pytest.raises(DataError, match=rf"data\.mdb {told}: \d+ of \d+ bytes; copy it again"):
        check_keys(folder)


def test_values_are_left_to_their_own_checksums(folder: Path) -> None:
    content = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(content.replace(b"a1", b"a2", 1))
    check_keys(folder)
    assert bytes(LmdbStore(folder).get("a")) != b"1" or content.count(b"a1") != 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": [], "data": [1, 2, 3]}', '{"files": {}, "data": [1]}', "{"])
def test_a_damaged_seal_is_named(content: str, folder: Path) -> None:
    (folder / SEAL).write_text(content)
    for look in (lambda: check_keys(folder), lambda: check_content(folder / "meta.json", b"")):
        with pytest.raises(DataError, match=r"seal\.json is (damaged|not JSON).*; copy or pack the store again"):
            look()


def test_pages_that_contradict_themselves_are_told(folder: Path) -> None:
    content = bytearray((folder / "data.mdb").read_bytes())
    for at in range(2 * 4096, len(content), 4096):
        content[at + 12 : at + 16] = b"\xff" * 4
    (folder / "data.mdb").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"data\.mdb is damaged: it has a page that ends before it begins; copy"):
        check_keys(folder)


def test_a_store_of_thousands_of_keys_is_looked_through(tmp_path: Path) -> None:
    """A tree of three levels, with values inside and outside of it."""
    data = packed(tmp_path / "store") / "data.mdb"
    assert lmdb_pages.checksum(data, values=True) != lmdb_pages.checksum(data, values=False)
    check_keys(tmp_path / "store")
