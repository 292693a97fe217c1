"""The embeddings of all images and texts as files, encoded in chunks that ranks share.

A chunk is always the same items in the same order, computed by one thread, so that neither ranks nor cores nor a
restart change a bit; on a CPU many chunks are encoded side by side instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from data.batches.pairs import Array, PairIndex
from data.files import read_checked_array, write_checked_array
from model.matcher import Side
from train.metrics.clock import Clock
from train.metrics.throughput import describe_pace
from train.mining.storage import fits, open_memmap, reserve, saving, sync
from train.scoring.scorer import Scorer

IMAGES, TEXTS = "img_embs.npy", "cap_embs.npy"
IMAGE_TOKENS, TEXT_TOKENS = "img_tokens.npy", "cap_tokens.npy"
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One side of what is to be encoded: its names, how many tokens each item has, how it is done and where it goes.

    `pool` makes one vector of each encoded item.
    """

    what: str
    names: list[str]
    lengths: Array
    encode: Callable[[Array], Side]
    pool: Callable[[Side], Tensor]
    path: Path
    tokens: Path | None


@dataclass(frozen=True)
class Embedder:
    """Encodes a split with a scorer's matcher into files below `folder`, done-marks included.

    Attributes:
        tokens: whether the tokens of each item are kept too, as late heads need them.
        said: called with a line about how far it is.
        save_seconds: how often the marks of what is done are written.
    """

    scorer: Scorer
    index: PairIndex
    folder: Path
    tokens: bool
    said: Callable[[str], object]
    save_seconds: float

    def write(self) -> None:
        """All files, whole on return; what an earlier start has done is kept.

        Raises:
            DataError: an embedding is not finite.
            Failure: there is no room for the files.
        """
        self.scorer.matcher.eval()
        index, matcher, kept = self.index, self.scorer.matcher, self.folder if self.tokens else None
        images, texts = (partial(encode, index) for encode in (self.scorer.encode_images, self.scorer.encode_texts))
        with torch.inference_mode(), self.scorer.autocast():
            width = matcher.pooled_texts(texts(np.arange(1))).shape[1]
        for stage in (
            Stage("image", index.images, index.regions, images, matcher.pooled_images, self.folder / IMAGES,
                  kept and kept / IMAGE_TOKENS),
            Stage("caption", index.texts, index.words, texts, matcher.pooled_texts, self.folder / TEXTS,
                  kept and kept / TEXT_TOKENS),
        ):  # fmt: skip
            self._write(stage, width)

    def _write(self, stage: Stage, width: int) -> None:
        comm = self.scorer.comm
        marks = DoneMarks(stage.path, stage.tokens, comm.rank, comm.size)
        if comm.rank == 0:
            reserve_files(stage, width, marks)
        comm.barrier(f"room for {stage.what}s")
        done = marks.read()
        comm.barrier(f"reserved {stage.what}s")
        size = self.scorer.matcher.encode_chunk
        left = [chunk for chunk in range(-(-len(stage.names) // size)) if chunk not in done]
        mine = left[comm.rank :: comm.size]
        out = open_memmap(stage.path, writable=True)
        tokens = open_memmap(stage.tokens, writable=True) if stage.tokens else None
        first_token = np.concatenate([[0], np.cumsum(stage.lengths)])
        for number, (chunk, (values, packed)) in enumerate(zip(mine, self._encoded(stage, mine), strict=True), 1):
            first = chunk * size
            check_finite(values, stage, first)
            out[first : first + len(values)] = values
            if tokens is not None:
                tokens[first_token[first] : first_token[first + len(values)]] = packed
            if marks.add(chunk, self.save_seconds):
                told = f"{stage.what}s: {number} of {len(mine)} chunks encoded"
                self.said(f"{told}  {describe_pace(self.scorer.clock.so_far())}")
        marks.save()
        comm.barrier(f"encoded {stage.what}s")

    def _encoded(self, stage: Stage, chunks: list[int]) -> Iterator[tuple[Array, Array | None]]:
        """The embeddings of each chunk, and its tokens where they are kept."""
        size = self.scorer.matcher.encode_chunk

        def work(chunk: int) -> tuple[Array, Array | None]:
            some = np.arange(chunk * size, min((chunk + 1) * size, len(stage.names)))
            with torch.inference_mode(), self.scorer.autocast():
                side = stage.encode(some)
                tokens = tokens_of(side, stage.lengths[some]).float().cpu().numpy() if self.tokens else None
                return stage.pool(side).float().cpu().numpy(), tokens

        return run_side_by_side(work, chunks, self.scorer.device, self.scorer.clock)


class DoneMarks:
    """Which chunks of a file are on the disk; each rank notes its own, all read those of all."""

    def __init__(self, path: Path, beside: Path | None, rank: int, size: int) -> None:
        self._path, self._beside = path, beside
        self._own = path.with_name(f"{path.stem}.done-{rank}-of-{size}.npy")
        self.done: list[int] = []
        self._saved = time.monotonic()

    def read(self) -> set[int]:
        """Chunks that were marked by whatever ranks there were; raises DataError where marks are not whole."""
        files = sorted(self._path.parent.glob(f"{self._path.stem}.done-*.npy"))
        known = {file: read_checked_array(file).tolist() for file in files}
        self.done = list(known.get(self._own, []))
        return {chunk for chunks in known.values() for chunk in chunks}

    def void(self) -> None:
        """Nothing is done, whatever was marked by whom."""
        for file in self._path.parent.glob(f"{self._path.stem}.done-*.npy"):
            file.unlink()

    def add(self, chunk: int, every: float) -> bool:
        """Note a chunk; returns whether it was time to save."""
        self.done.append(chunk)
        if time.monotonic() - self._saved < every:
            return False
        self.save()
        return True

    def save(self) -> None:
        """Mark what is done, once it is truly on the disk."""
        sync(self._path)
        if self._beside:
            sync(self._beside)
        with saving(self._own):
            write_checked_array(self._own, np.asarray(self.done, np.int64))
        self._saved = time.monotonic()


def reserve_files(stage: Stage, width: int, marks: DoneMarks) -> None:
    """Reserve the files of a stage; marks go before a file is made anew, for they speak of the one that is gone.

    Raises:
        Failure: there is not enough room.
    """
    shapes = {stage.path: (len(stage.names), width)}
    if stage.tokens:
        shapes[stage.tokens] = (int(stage.lengths.sum()), width)
    if not all(fits(path, shape, np.dtype(np.float32)) for path, shape in shapes.items()):
        marks.void()
    for path, shape in shapes.items():
        reserve(path, shape, np.float32)


def check_finite(values: Array, stage: Stage, first: int) -> None:
    """Raise DataError where an embedding `[items, d]` is not finite; the first is that of item `first`."""
    wrong = np.flatnonzero(~np.isfinite(values).all(1))
    if len(wrong):
        raise DataError(
            f"the embedding of {stage.what} {stage.names[first + wrong[0]]} is not finite; use --precision off, or "
            "weights that did not diverge"
        )


def tokens_of(side: Side, lengths: Array) -> Tensor:
    """The packed tokens of a side, of which each item has as many as it has regions or words.

    Raises:
        ConfigError: this matcher keeps more or fewer.
    """
    if not np.array_equal(side.rows.lengths.numpy(), lengths):
        raise ConfigError("this matcher's tokens are not one to a region or word; its candidates cannot be mined")
    return side.rows.values


def run_side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], device: torch.device, clock: Clock
) -> Iterator[Result]:
    """`work` of each item, in order; on a CPU each thread takes an item of its own and computes alone.

    Args:
        clock: what `work` reads its time from, which all threads share.
    """
    with one_thread_each() as threads:
        workers = threads if device.type == "cpu" else 1
        with clock.shared_by(workers), ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(items), threads):
                yield from pool.map(work, items[start : start + threads])


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Operations compute on one thread inside; gives the number of threads there were, to be used side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
