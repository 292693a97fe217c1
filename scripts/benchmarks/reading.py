"""Store reading: records of 36 x 2048 half floats into a preallocated batch, on one core, from a warm cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.records.native_record import view_native
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from scripts.benchmarks.readers import (
    BATCH,
    ROWS,
    WIDTH,
    Run,
    Target,
    Ways,
    with_datasets,
    with_msgpack_numpy,
    with_webdataset,
)
from scripts.benchmarks.synthetic_stores import Shape, image_name, write_images
from scripts.benchmarks.timing import Row, absent, interleave, one_thread

GROUP = "store reading"


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """One row for each peer."""
    records = 64 if quick else 512
    shape = Shape(records, 0, WIDTH, regions=(ROWS, ROWS, ROWS))
    write_images(folder, shape, "native", "published")
    with one_core():
        yield from compare(folder, shape, records, rounds=3 if quick else 31)


def compare(folder: Path, shape: Shape, records: int, rounds: int) -> Iterator[Row]:
    """Every way reads the same first, then all take turns."""
    ways, lacking = ours(folder, shape, records), dict[str, str]()
    for peer, needed, make in (
        ("msgpack-numpy", ("msgpack_numpy",), with_msgpack_numpy),
        ("webdataset", ("webdataset",), with_webdataset),
        ("HF datasets", ("datasets",), with_datasets),
    ):
        lacking[peer] = absent(*needed)
        if not lacking[peer]:
            ways |= make(folder, shape, records)
    check_alike(ways)
    found = interleave(ways, rounds)

    def row(name: str, way: str, peer: str, aim: float | None = None) -> Row:
        candidates = [known for known in ways if known.startswith(peer)]
        if not candidates:
            return Row(GROUP, name, note=lacking[peer.partition(":")[0]])
        best = found.best(*candidates)
        notes = [f"the fastest of {len(candidates)} ways"] if len(candidates) > 1 else []
        if aim and best != "plain copy":
            notes.append(f"a plain copy would be {found.ratio('plain copy', best):.1f} x")
        return found.row(GROUP, name, way, best, BATCH, "records/s", aim, "; ".join(notes))

    yield row("native, plain copy of the same bytes", "native", "plain copy", 0.7)
    yield row("native with every checksum compared, plain copy", "native, checked", "plain copy")
    yield row("native, HF datasets", "native", "HF datasets: array", 3.0)
    yield row("native, HF datasets as raw bytes", "native", "HF datasets: bytes")
    yield row("native, webdataset", "native", "webdataset")
    yield row("native, msgpack-numpy", "native", "msgpack-numpy")
    yield row("published, msgpack-numpy", "published", "msgpack-numpy", 10.0)
    yield row("published into float32, msgpack-numpy", "published, float32", "msgpack-numpy")


def ours(folder: Path, shape: Shape, records: int) -> Ways:
    """Our readers, and the copy that no reader can beat."""
    names = [image_name(number) for number in range(records)]

    def reader(store: ImageStore, target: Target) -> Run:
        store.counts(names)

        def run() -> Target:
            for place, number in target.turn():
                store.read_into(names[number], target.features[place], target.boxes[place])
            return target

        return run

    native = ImageStore(folder, shape.rule, codec="native")
    checked = ImageStore(folder, shape.rule, codec="native", verify="always")
    published = ImageStore(folder, shape.rule, codec="published")
    for name in names:  # each record's first reading compares its checksum
        native.read(name)
    return {
        "native": reader(native, Target(records)),
        "plain copy": plain_copy(native.path, names),
        "native, checked": reader(checked, Target(records)),
        "published": reader(published, Target(records)),
        "published, float32": reader(published, Target(records, "f4")),
    }


def plain_copy(path: Path, names: list[str]) -> Run:
    """The bytes of the same records, found beforehand, copied by numpy."""
    target, store = Target(len(names)), LmdbStore(path)
    records = [view_native(store.get(name)) for name in names]

    def run(held: LmdbStore = store) -> Target:  # the views hold as long as the store does
        del held
        for place, number in target.turn():
            target.features[place], target.boxes[place] = records[number].features, records[number].boxes
        return target

    return run


def check_alike(ways: Ways) -> None:
    """Every way must put the same numbers into its batch: the random ones among themselves, and those in order."""
    first: dict[bool, Target] = {}
    for name, run in ways.items():
        target = run()
        assert isinstance(target, Target)
        known = first.setdefault(name.startswith("webdataset"), target)
        if not (np.array_equal(known.features, target.features) and np.array_equal(known.boxes, target.boxes)):
            raise RuntimeError(f"{name} read other numbers than the rest: their times mean nothing")


@contextmanager
def one_core() -> Iterator[None]:
    """Everything inside runs on one core and one thread."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with one_thread():
            yield
    finally:
        os.sched_setaffinity(0, cores)
