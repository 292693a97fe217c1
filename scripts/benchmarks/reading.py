"""Store reading: records of 36 x 2048 half floats into a preallocated batch, on one core, from a warm cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.codec import view_native
from data.images import ImageStore
from data.store import LmdbStore
from scripts.benchmarks.made import Shape, image_name, write_images
from scripts.benchmarks.timing import Row, absent, interleave, one_thread

GROUP = "store reading"
ROWS, WIDTH = 36, 2048
BATCH = 64
Run = Callable[[], object]
Ways = dict[str, Run]


class Target:
    """A preallocated batch, and which record comes next."""

    def __init__(self, records: int, dtype: Literal["f2", "f4"] = "f2") -> None:
        self.features = np.zeros((BATCH, ROWS, WIDTH), dtype)
        self.boxes = np.zeros((BATCH, ROWS, 7), np.float32)
        self._order = cycle(np.random.default_rng(1).permutation(records).tolist())

    def turn(self) -> Iterator[tuple[int, int]]:
        """(place in the batch, number of the record) of the next batch."""
        return enumerate(islice(self._order, BATCH))

    def put(self, place: int, features: Any, boxes: Any) -> None:
        """What is left to do for a peer: copy, and the area of each box."""
        self.features[place] = features
        to = self.boxes[place]
        to[:, :6] = boxes
        np.multiply(to[:, 4], to[:, 5], out=to[:, 6])


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """One row for each peer."""
    records = 64 if quick else 512
    shape = Shape(records, 0, WIDTH, regions=(ROWS, ROWS, ROWS))
    write_images(folder, shape, "native", "published")
    with one_core():
        yield from compare(folder, shape, records, rounds=3 if quick else 31)


def compare(folder: Path, shape: Shape, records: int, rounds: int) -> Iterator[Row]:
    ways, notes = ours(folder, shape, records), {}
    for peer, needed, make in (
        ("msgpack-numpy", ("msgpack_numpy",), with_msgpack_numpy),
        ("webdataset", ("webdataset",), with_webdataset),
        ("HF datasets", ("datasets",), with_datasets),
    ):
        notes[peer] = absent(*needed)
        if not notes[peer]:
            ways |= make(folder, shape, records)
    check_alike(ways)
    found = interleave(ways, rounds)

    def row(name: str, way: str, peer: str, aim: float | None = None) -> Row:
        candidates = [known for known in ways if known.startswith(peer)]
        if not candidates:
            return Row(GROUP, name, note=notes[peer.partition(":")[0]])
        best = found.best(*candidates)
        note = f"{len(candidates)} ways tried, the fastest counts" if len(candidates) > 1 else ""
        return found.row(GROUP, name, way, best, BATCH, "records/s", aim, note)

    yield row("native, a copy of the same bytes", "native", "plain copy", 0.7)
    yield row("native, every checksum compared", "native, checked", "plain copy")
    yield row("native, HF datasets", "native", "HF datasets: array", 3.0)
    yield row("native, HF datasets as raw bytes", "native", "HF datasets: bytes")
    yield row("native, webdataset", "native", "webdataset")
    yield row("native, msgpack-numpy", "native", "msgpack-numpy")
    yield row("published, msgpack-numpy", "published", "msgpack-numpy", 10.0)
    yield row("published into float32, msgpack-numpy", "published, float32", "msgpack-numpy", 10.0)


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

    def run() -> Target:
        for place, number in target.turn():
            target.features[place], target.boxes[place] = records[number].features, records[number].boxes
        return target

    run.store = store  # type: ignore[attr-defined]  # the views hold while the store is open
    return run


def with_msgpack_numpy(folder: Path, shape: Shape, records: int) -> Ways:
    """What a published reader does: unpack the whole record, widen, copy into the batch."""
    import msgpack_numpy

    target = Target(records, "f4")
    store = LmdbStore(ImageStore(folder, shape.rule, codec="published").path)

    def run() -> Target:
        for place, number in target.turn():
            record = msgpack_numpy.unpackb(store.get(image_name(number)), raw=False)
            target.put(place, record["features"].astype(np.float32), record["norm_bb"].astype(np.float32))
        return target

    return {"msgpack-numpy": run}


def arrays(folder: Path, shape: Shape, records: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and boxes of each record."""
    store = ImageStore(folder, shape.rule, codec="native")
    for number in range(records):
        image = store.read(image_name(number))
        yield image.features, image.boxes[:, :6].astype(np.float16)


def with_webdataset(folder: Path, shape: Shape, records: int) -> Ways:
    """One tar file read in its order (its way), as npy, as its own tensors, and as raw bytes viewed by numpy."""
    import webdataset

    def endless(name: str, decode: bool) -> Iterator[dict[str, Any]]:
        while True:
            samples = webdataset.WebDataset(str(folder / name), shardshuffle=False)
            yield from samples.decode() if decode else samples

    def reader(kind: str, pack: Callable[[np.ndarray], Any], unpack: Callable[[Any, int], Any], decode: bool) -> Run:
        with webdataset.TarWriter(str(folder / f"{kind}.tar")) as writer:
            for number, (features, boxes) in enumerate(arrays(folder, shape, records)):
                parts = {f"features.{kind}": pack(features), f"boxes.{kind}": pack(boxes)}
                writer.write({"__key__": f"{number:06d}", **parts})
        target, samples = Target(records), endless(f"{kind}.tar", decode)

        def run() -> Target:
            for place, sample in enumerate(islice(samples, BATCH)):
                target.put(place, unpack(sample[f"features.{kind}"], WIDTH), unpack(sample[f"boxes.{kind}"], 6))
            return target

        return run

    def as_half(value: bytes, width: int) -> np.ndarray:
        return np.frombuffer(value, np.float16).reshape(ROWS, width)

    return {
        "webdataset: npy": reader("npy", lambda array: array, lambda value, _: value, True),
        "webdataset: tensors": reader("ten", lambda array: [array], lambda value, _: value[0], True),
        "webdataset: bytes": reader("bin", lambda array: array.tobytes(), as_half, False),
    }


def with_datasets(folder: Path, shape: Shape, records: int) -> Ways:
    """Arrow tables with array columns (by numpy and by arrow's own views) and with plain bytes."""
    os.environ |= {"HF_HOME": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1"}
    import datasets

    datasets.disable_progress_bars()
    kinds = {
        "array": {"f": datasets.Array2D((ROWS, WIDTH), "float16"), "b": datasets.Array2D((ROWS, 6), "float16")},
        "bytes": {"f": datasets.Value("binary"), "b": datasets.Value("binary")},
    }

    def table(kind: str) -> Any:
        def made() -> Iterator[dict[str, Any]]:
            for features, boxes in arrays(folder, shape, records):
                yield {"f": features, "b": boxes} if kind == "array" else {"f": features.tobytes(), "b": boxes.tobytes()}

        columns = datasets.Features(kinds[kind])
        return datasets.Dataset.from_generator(made, features=columns, cache_dir=str(folder / kind), split=kind)

    def reader(source: Any, unpack: Callable[[Any, int], Any]) -> Run:
        target = Target(records)

        def run() -> Target:
            for place, number in target.turn():
                record = source[number]
                target.put(place, unpack(record["f"], WIDTH), unpack(record["b"], 6))
            return target

        return run

    def from_arrow(column: Any, width: int) -> np.ndarray:
        values = column.combine_chunks().storage.flatten().flatten()
        return np.asarray(values.to_numpy()).reshape(ROWS, width)

    def from_bytes(value: Any, width: int) -> np.ndarray:
        return np.frombuffer(value, np.float16).reshape(ROWS, width)

    def from_arrow_bytes(column: Any, width: int) -> np.ndarray:
        return from_bytes(column[0].as_buffer(), width)

    array, raw = table("array"), table("bytes")
    return {
        "HF datasets: array, numpy": reader(array.with_format("numpy"), lambda value, _: value),
        "HF datasets: array, arrow": reader(array.with_format("arrow"), from_arrow),
        "HF datasets: bytes": reader(raw, from_bytes),
        "HF datasets: bytes, arrow": reader(raw.with_format("arrow"), from_arrow_bytes),
    }


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
