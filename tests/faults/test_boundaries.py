"""A save that ends at any of its file operations: killed, refused by the disk, without power; and damaged checkpoints.

Every point of every kind of save is tried; `counted` in what a test prints with -s says how many there were.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from config.errors import DataError, Failure
from tests.faults.saves import SAVES, Save, content, goes_on, outcome, same, snapshot, written
from tests.operations import KILLED, Change, Recorder, at_each, failing_at, killed_at, repeated
from train.checkpointing.checkpoint import Checkpoints, read_facts, read_state, read_weights

Counts = Counter[str]
TORN = (0.0, 0.1, 0.5, 1.0)
"""How much of a write has reached the file."""


@pytest.fixture(params=list(SAVES))
def save(request: pytest.FixtureRequest) -> Save:
    return SAVES[request.param]


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Iterator[Counts]:
    counts: Counts = Counter()
    yield counts
    print(f"\n{request.node.name}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


@pytest.fixture(autouse=True)
def nothing_is_forced_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls are counted nevertheless; the loss of what was not forced is simulated, and waiting takes long."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Places:
    """Fresh copies of what a save finds.

    Attributes:
        calls: the names of all calls that it makes.
    """

    def __init__(self, save: Save, tmp_path: Path) -> None:
        self.start, self._tmp_path, self._count = tmp_path / "start", tmp_path, 0
        self.start.mkdir()
        save.before(self.start)
        folder, record = self.fresh(), Recorder()
        with at_each(record.act):
            save.act(folder)
        self.calls = record.names

    def fresh(self) -> Path:
        self._count += 1
        return Path(shutil.copytree(self.start, self._tmp_path / str(self._count), symlinks=True))


def test_killed_at_any_operation_the_old_or_the_new_one_is_whole(save: Save, tmp_path: Path, counted: Counts) -> None:
    """A write is cut off in four places, the last of them its end."""
    places = Places(save, tmp_path)
    seen = []
    for number, name in enumerate(places.calls, 1):
        for part in TORN if name == "write" else TORN[:1]:
            folder = places.fresh()
            assert killed_at(number, part, partial(save.act, folder)) == KILLED
            seen.append(outcome(folder, save))
            goes_on(folder, save)
            shutil.rmtree(folder)
    assert len(seen) > 30, "the points were too few to say anything"
    assert seen == sorted(seen, key=lambda found: found == "new"), "what was there once stays there"
    assert {"new"} < set(seen)
    counted.update(seen)


@pytest.mark.parametrize(("error", "lasts"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)],
                         ids=["full from then on", "read-only from then on", "broken once"])
def test_refused_at_any_operation_it_fails_in_one_line(
    error: int, lasts: bool, save: Save, tmp_path: Path, counted: Counts
) -> None:
    places = Places(save, tmp_path)
    for number in range(1, len(places.calls) + 1):
        folder, told = places.fresh(), ""
        with failing_at(number, error, lasts) as failed:
            try:
                save.act(folder)
            except Failure as failure:
                told = str(failure)
        assert failed
        found, newest = outcome(folder, save), Checkpoints(folder, 1).newest(print)
        if told:
            assert "\n" not in told
            assert "start again with the same command" in told
            assert told.endswith(f"it goes on from {newest.name}" if newest else "with the same command")
        else:
            assert found == "new"
        goes_on(folder, save)
        shutil.rmtree(folder)
        counted[f"failed, {found}" if told else "went well"] += 1
    assert number >= 30, "the points were too few to say anything"


def test_without_power_at_any_operation_what_was_forced_to_disk_is_enough(
    save: Save, tmp_path: Path, counted: Counts
) -> None:
    """Files lose what was not forced to disk, and folders the names: all of those, some of the last, or none."""
    places = Places(save, tmp_path)
    root, record = places.fresh(), Recorder()
    with at_each(record.act):
        save.act(root)
    known: dict[tuple[Change, ...], str] = {}
    committed = False
    for end in range(len(record.calls) + 1):
        found = set()
        for changes in losses(record, root, end):
            if changes not in known:
                folder = places.fresh()
                repeated(changes, root, folder)
                known[changes] = outcome(folder, save)
                goes_on(folder, save)
                shutil.rmtree(folder)
            found.add(known[changes])
        assert not committed or found == {"new"}, "what was on disk once stays there"
        committed = found == {"new"}
    assert committed, "a save that has returned is on disk"
    counted.update(known.values())


def losses(record: Recorder, root: Path, end: int) -> Iterator[tuple[Change, ...]]:
    """What may be on disk when the power fails after so many calls."""
    low = record.synced(root / "ckpt", end)
    for names, all_others in itertools.product(range(low, end + 1), (True, False)):

        def lasting(folder: Path, names: int = names, all_others: bool = all_others) -> int:
            return names if folder == root / "ckpt" else end if all_others else record.synced(folder, end)

        yield record.after_power_loss(end, lasting)


def test_writes_that_fall_short_are_gone_on_with(tmp_path: Path) -> None:
    def act(_: int, name: str, real: Callable[..., int], args: tuple[int, bytes], named: dict[str, int]) -> int:
        return real(args[0], memoryview(args[1])[:7]) if name == "write" else real(*args, **named)

    with at_each(act):
        folder = Checkpoints(tmp_path, 1).write(snapshot(10))
    assert same(folder, snapshot(10))
    assert Checkpoints(tmp_path, 1).newest(print) == folder


FILES = ("model.safetensors", "state.pt", "config.json", "complete.json")
READERS = {"model.safetensors": read_weights, "state.pt": read_state, "config.json": read_facts}


def damages(path: Path, way: str) -> Iterator[None]:
    """Damage a file in all places, one after the other; it is whole again between two of them."""
    whole = path.read_bytes()
    if way == "flipped":
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            yield
    elif way == "cut off":
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:length])
            yield
    elif way == "too long":
        for more in (b"\0", b" ", whole):
            path.write_bytes(whole + more)
            yield
    elif way == "zeros":
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:length] + bytes(len(whole) - length))
            yield
    elif way == "missing":
        path.unlink()
        yield
    else:
        path.unlink()
        path.mkdir()
        yield
        path.rmdir()
    path.write_bytes(whole)


@pytest.mark.parametrize("way", ["flipped", "cut off", "too long", "zeros", "missing", "a folder"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_one_before_is_used(
    name: str, way: str, tmp_path: Path, counted: Counts
) -> None:
    place = Checkpoints(tmp_path, 2)
    old, new = place.write(snapshot(10)), place.write(snapshot(20))
    whole = content(new)
    for _ in damages(new / name, way):
        said: list[str] = []
        found = place.newest(said.append)
        if said:
            assert found == old
            assert len(said) == 1
            assert said[0].startswith(f"{new}: {name} ")
            assert said[0].endswith("; going on with step-00000010")
        else:
            assert (found, content(new)) == (new, whole)
        counted["the one before is used" if said else "means the same"] += 1
    assert place.newest(print) == new
    assert counted["means the same"] <= (3 if name == "complete.json" else 0)
    assert counted["the one before is used"]


@pytest.mark.parametrize("way", ["flipped", "cut off", "too long", "zeros", "missing", "a folder"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_never_read(name: str, way: str, tmp_path: Path, counted: Counts) -> None:
    """By its path, where there is no other that could be used instead."""
    folder = Checkpoints(tmp_path, 2).write(snapshot(10))
    for _ in damages(folder / name, way):
        if is_whole(tmp_path):
            assert same(folder, snapshot(10))
            counted["means the same"] += 1
            continue
        for own, read in READERS.items():
            if name in (own, "complete.json") and not (name == "complete.json" and way == "missing"):
                with pytest.raises(DataError, match=name.replace(".", r"\.")) as told:
                    read(folder)
                assert "\n" not in str(told.value)
                assert str(told.value).count("; ") == 1, "no remedy"
            else:
                read(folder)
        counted["refused"] += 1
    assert counted["refused"]


def is_whole(folder: Path) -> bool:
    """Whether a run could go on; what is said if not tells what to do."""
    try:
        return Checkpoints(folder, 2).newest(print) is not None
    except DataError as error:
        told = str(error)
    assert "name other weights by their path, or use another output folder" in told
    return False


def test_all_damaged_are_named(tmp_path: Path) -> None:
    written(2, snapshot(10), snapshot(20))(tmp_path)
    os.truncate(tmp_path / "ckpt" / "step-00000010" / "state.pt", 5)
    (tmp_path / "ckpt" / "step-00000020" / "complete.json").unlink()
    with pytest.raises(DataError, match=r"20: complete\.json is missing; .*10: state\.pt has 5 bytes, and \d+ were"):
        Checkpoints(tmp_path, 2).newest(print)
