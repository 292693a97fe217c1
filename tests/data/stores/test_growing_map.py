"""Maps that begin small and grow: nothing put into them is lost, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.stores.growing_map import GrowingMap

TINY = 1 << 19
SMALL, LONG = st.integers(0, 600), st.integers(4000, 400_000)
PUTS = st.lists(st.tuples(st.integers(0, 40), st.one_of(SMALL, LONG)), max_size=60)


@contextmanager
def growing(folder: Path, start: int = TINY) -> Iterator[GrowingMap]:
    """A map, closed after its last commit."""
    folder.mkdir(exist_ok=True)
    growing = GrowingMap(folder, start)
    yield growing
    growing.commit()
    growing.close()


def stored(folder: Path) -> dict[bytes, bytes]:
    """What LMDB itself finds."""
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as reader:
        return dict(reader.cursor())


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The map sizes asked for so far."""
    asked: list[int] = []
    real = lmdb.open

    def note(path: str, **options: Any) -> Any:
        asked.append(options.get("map_size", 0))
        return real(path, **options)

    monkeypatch.setattr(lmdb, "open", note)
    return asked


def test_a_map_grows_until_everything_is_in_it(tmp_path: Path, sizes: list[int]) -> None:
    expected = {f"{number:03d}".encode(): bytes([number]) * 30_000 for number in range(200)}
    with growing(tmp_path / "store") as begun:
        for key, value in expected.items():
            begun.put(key, value)
    assert sizes == [TINY << times for times in range(len(sizes))]
    assert len(sizes) > 4
    assert stored(tmp_path / "store") == expected


@given(puts=PUTS, every=st.integers(1, 30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_transaction_meets_the_end_of_the_map(
    puts: list[tuple[int, int]], every: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Small and large values, new ones and such as replace others, committed now and then."""
    folder = tmp_path_factory.mktemp("map") / "store"
    expected = {}
    with growing(folder) as begun:
        for at, (number, size) in enumerate(puts):
            key, value = f"{number:0500d}".encode(), bytes([at]) * size
            begun.put(key, value)
            expected[key] = value
            if at % every == 0:
                begun.commit()
    assert stored(folder) == expected


def test_a_record_larger_than_the_map_finds_room(tmp_path: Path) -> None:
    with growing(tmp_path / "store") as begun:
        begun.put(b"a", b"x" * 5_000_000)
    assert len(stored(tmp_path / "store")[b"a"]) == 5_000_000


def test_a_map_that_was_left_is_taken_up(tmp_path: Path) -> None:
    for number in range(3):
        with growing(tmp_path / "store") as begun:
            begun.put(str(number).encode(), b"x" * 200_000)
    assert list(stored(tmp_path / "store")) == [b"0", b"1", b"2"]


def overfill(begun: GrowingMap) -> None:
    """Put short records, which are committed, and long ones."""
    for number in range(100):
        begun.put(str(number).encode(), b"x" * 1000)
        begun.commit()
        begun.put(f"{number} long".encode(), b"x" * 20_000)


def test_where_it_cannot_double_it_grows_by_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most, real = 3 * TINY, lmdb.open

    def scarce(path: str, **options: Any) -> Any:
        if options["map_size"] > most:
            raise lmdb.MemoryError
        return real(path, **options)

    monkeypatch.setattr(lmdb, "open", scarce)
    (tmp_path / "store").mkdir()
    begun = GrowingMap(tmp_path / "store", TINY)
    with pytest.raises(lmdb.MemoryError):
        overfill(begun)
    begun.commit()
    begun.close()
    monkeypatch.undo()
    assert (tmp_path / "store" / "data.mdb").stat().st_size > TINY
    assert len(stored(tmp_path / "store")) > 4
