"""Plans to batches: forked workers decode records straight into preallocated shared (and pinned) memory."""

from __future__ import annotations

import mmap
import multiprocessing as mp
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from math import prod
from multiprocessing.connection import Connection

import numpy as np
import torch

from config.errors import DataError, Failure
from data.augment import WordAugment
from data.batch import Batch, Images, Ragged
from data.pairs import PairIndex
from data.plan import Plan


@dataclass(frozen=True)
class Capacity:
    """The most regions and words that any batch of a run holds."""

    regions: int
    words: int

    @classmethod
    def of(cls, index: PairIndex, images: int, texts: int) -> Capacity:
        """Enough for any choice of so many different images and texts."""
        regions, words = np.sort(index.regions)[::-1], np.sort(index.words)[::-1]
        return cls(int(regions[:images].sum()), int(words[:texts].sum()))

    @classmethod
    def of_items(cls, index: PairIndex, items: int) -> Capacity:
        """Enough for any so many images and texts, the same ones again and again among them."""
        return cls(int(index.regions.max()) * items, int(index.words.max()) * items)


class Slot:
    """Memory for one batch, shared with forked workers and pinned where there is a CUDA device.

    `features [regions, *row_shape]`, `boxes [regions, 7]` and `ids [words]` hold the batch, one image or text after
    the other; `lengths` says how many ids each text has come to.
    """

    def __init__(self, capacity: Capacity, index: PairIndex, pin: bool) -> None:
        shape, dtype = (capacity.regions, *index.row_shape), index.feature_type
        texts = capacity.words // 2  # at most: each has its two marks
        sizes = (prod(shape) * dtype.itemsize, capacity.regions * 7 * 4, capacity.words * 8, texts * 8)
        self._memory = [mmap.mmap(-1, max(size, 1)) for size in sizes]
        views = [np.frombuffer(memory, np.uint8)[:size] for memory, size in zip(self._memory, sizes, strict=True)]
        self.features = views[0].view(dtype).reshape(shape)
        self.boxes = views[1].view(np.float32).reshape(capacity.regions, 7)
        self.ids, self.lengths = views[2].view(np.int64), views[3].view(np.int64)
        self._pinned = [(view.ctypes.data, view.nbytes) for view in views[:3] if pin and view.nbytes]
        for address, size in self._pinned:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, size, 0))

    def release(self) -> None:
        """Let go of page-locked memory; what was read is gone with this object."""
        for address, _ in self._pinned:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))
        self._pinned = []

    def fill(self, index: PairIndex, plan: Plan, augment: WordAugment | None = None) -> None:
        """Decode the plan's images and texts, one after the other, into this memory; `augment` alters the texts."""
        keys, lengths = plan.read_keys, index.words[plan.texts]
        index.read_images(plan.images, self.features, self.boxes, keys)
        index.read_texts(plan.texts, self.ids)
        if augment is not None and keys is not None:
            lengths = augment(self.ids, lengths, keys)
        self.lengths[: len(lengths)] = lengths

    def batch(self, index: PairIndex, plan: Plan) -> Batch:
        """A view of this memory as a batch."""
        regions, words = index.regions[plan.images], self.lengths[: len(plan.texts)]
        features = torch.from_numpy(self.features[: regions.sum()])
        boxes = torch.from_numpy(self.boxes[: regions.sum()])
        texts = Ragged.of(torch.from_numpy(self.ids[: words.sum()]), torch.from_numpy(words))
        images = Images(Ragged.of(features, torch.from_numpy(regions)), boxes)
        return plan.batch(images, texts, index.owner[plan.texts])


class Loader:
    """Batches of the given plans, in their order, read ahead by `workers` processes (0: read when asked).

    A batch on the CPU is a view: it holds until the next one is asked for. On another `device` it is a copy that may
    still be under way; its memory here is not written to before the copy has ended.
    """

    def __init__(
        self,
        index: PairIndex,
        plans: Iterator[Plan],
        capacity: Capacity,
        workers: int,
        prefetch: int,
        device: torch.device,
        pin: bool = True,
        augment: WordAugment | None = None,
    ) -> None:
        self.index, self.plans, self.device, self.augment = index, plans, device, augment
        on_gpu = device.type == "cuda"
        self._copied = torch.cuda.Event() if on_gpu else None
        self._slots = [Slot(capacity, index, pin and on_gpu) for _ in range(workers * prefetch + 1)]
        self._workers = [Worker(index, self._slots, augment) for _ in range(workers)]

    def __iter__(self) -> Iterator[tuple[Plan, Batch]]:
        """(plan, batch) for each plan; raises DataError as the reading worker did."""
        free = deque(range(len(self._slots)))
        turns = cycle(self._workers or [None])
        waiting: deque[tuple[Plan, int, Worker | None]] = deque()
        try:
            while True:
                while free and (plan := next(self.plans, None)) is not None:
                    waiting.append((plan, free.popleft(), next(turns)))
                    self._start(*waiting[-1])
                if not waiting:
                    return
                plan, slot, worker = waiting.popleft()
                if worker is not None:
                    worker.answer()
                batch = self._slots[slot].batch(self.index, plan).to(self.device)
                if self._copied is not None:
                    self._copied.record()
                yield plan, batch
                if self._copied is not None:
                    self._copied.synchronize()
                free.append(slot)
        finally:
            self.close()

    def _start(self, plan: Plan, slot: int, worker: Worker | None) -> None:
        if worker is None:
            self._slots[slot].fill(self.index, plan, self.augment)
        else:
            worker.ask(slot, plan)

    def close(self) -> None:
        """End the workers and let go of page-locked memory."""
        for worker in self._workers:
            worker.close()
        if self._copied is not None:
            self._copied.synchronize()
        for slot in self._slots:
            slot.release()


class Worker:
    """A forked process that fills slots."""

    def __init__(self, index: PairIndex, slots: list[Slot], augment: WordAugment | None) -> None:
        self._pipe, theirs = mp.Pipe()
        given = (theirs, index, slots, augment, os.getpid())
        self._process = mp.get_context("fork").Process(target=serve, args=given, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, slot: int, plan: Plan) -> None:
        with self._naming_its_death():
            self._pipe.send((slot, plan))

    def answer(self) -> None:
        """Wait for the oldest question; raises DataError for a bad record or a worker that died."""
        with self._naming_its_death():
            while not self._pipe.poll(1.0):
                if not self._process.is_alive() and not self._pipe.poll(0):
                    raise EOFError
            error = self._pipe.recv()
        if error is not None:
            raise DataError(error)

    @contextmanager
    def _naming_its_death(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as lost:
            self._process.join(1.0)
            raise Failure(f"a reading worker died (exit code {self._process.exitcode}); is memory short?") from lost

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()


def serve(
    pipe: Connection, index: PairIndex, slots: list[Slot], augment: WordAugment | None, parent: int
) -> None:
    """A worker's life: fill the slots it is asked for until the parent closes the pipe or is gone.

    A scheduler signals every process of a job; the parent alone decides what that means.
    """
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(kind, signal.SIG_IGN)
    while os.getppid() == parent:
        if not pipe.poll(2.0):
            continue
        try:
            number, plan = pipe.recv()
        except EOFError:
            return
        try:
            slots[number].fill(index, plan, augment)
        except ValueError as error:
            pipe.send(str(error))
        else:
            pipe.send(None)
