"""The peers of our stores: how msgpack-numpy, webdataset and HF datasets read the same records into a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from scripts.benchmarks.synthetic_stores import Shape, image_name

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


def with_msgpack_numpy(folder: Path, shape: Shape, records: int) -> Ways:
    """What a published reader does: copy the record out of the store, unpack all of it, widen, copy into the batch."""
    import msgpack_numpy

    target = Target(records, "f4")
    store = LmdbStore(ImageStore(folder, shape.rule, codec="published").path)

    def run() -> Target:
        for place, number in target.turn():
            record = msgpack_numpy.unpackb(bytes(store.get(image_name(number))), raw=False)
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
                yield (
                    {"f": features, "b": boxes} if kind == "array" else {"f": features.tobytes(), "b": boxes.tobytes()}
                )

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
