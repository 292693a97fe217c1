"""Checksums of what leads to records: every page of the tree counts, in stores of many levels too."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from data.stores.lmdb_pages import TornPages, _pages, checksum
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter


def packed(folder: Path, records: int = 9000) -> Path:
    """A store whose keys need branches of branches; every hundredth value is longer than a page."""
    with LmdbWriter(folder) as writer:
        for number in random.Random(0).sample(range(records), records):
            writer.put(f"{number:040d}" * 6, b"value" * (2000 if number % 100 == 0 else number % 9))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("pages") / "store") / "data.mdb"


def test_every_page_of_the_tree_is_met_once(data: Path) -> None:
    content = data.read_bytes()
    met = [(int.from_bytes(page[:8], "little"), is_leaf) for page, is_leaf in _pages(content) if len(page) == 4096]  # type: ignore[arg-type]
    assert len({number for number, _ in met}) == len(met)
    store = LmdbStore(data.parent)
    told = store._reader().stat()
    assert told["depth"] >= 3
    assert sum(is_leaf for _, is_leaf in met) == told["leaf_pages"]
    assert sum(not is_leaf for _, is_leaf in met) == told["branch_pages"]


@pytest.mark.parametrize("values", [True, False])
def test_a_turned_bit_of_a_key_or_of_what_leads_to_it_counts(values: bool, data: Path, tmp_path: Path) -> None:
    whole, content, draw = checksum(data, values), data.read_bytes(), random.Random(1)
    numbers = [int.from_bytes(page[:8], "little") for page, _ in _pages(content) if len(page) == 4096]  # type: ignore[arg-type]
    for number in draw.sample(numbers, 40):
        page = content[4096 * number : 4096 * (number + 1)]
        upper = int.from_bytes(page[14:16], "little")
        at = 4096 * number + draw.choice([draw.randrange(16), draw.randrange(16, 20), upper + draw.randrange(8)])
        turned = bytearray(content)
        turned[at] ^= 1 << draw.randrange(8)
        (tmp_path / "data.mdb").write_bytes(turned)
        try:
            assert checksum(tmp_path / "data.mdb", values) != whole
        except TornPages:
            continue


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 9000])
def test_what_is_no_store_is_torn(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(TornPages, match=r"too short|begins like no store"):
        checksum(tmp_path / "data.mdb", values=True)
