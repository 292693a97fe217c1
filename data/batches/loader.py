"""The loader: forked workers decode the records of each plan into preallocated shared (and pinned) memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import cycle

import torch

from config.errors import Failure
from data.batches.augment import WordAugment
from data.batches.batch import Batch
from data.batches.pairs import PairIndex
from data.batches.plan import Plan
from data.batches.prefetch_buffer import Capacity, PrefetchBuffer
from data.batches.worker import Worker


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
        self._slots = [PrefetchBuffer(capacity, index, pin and on_gpu) for _ in range(workers * prefetch + 1)]
        self._workers: list[Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(Worker(index, self._slots, augment))
        except Failure:
            self.close()
            raise

    def __iter__(self) -> Iterator[tuple[Plan, Batch]]:
        """(plan, batch) for each plan.

        Raises:
            DataError: as the reading worker did.
            Failure: a worker died or did not begin.
        """
        free = deque(range(len(self._slots)))
        turns = cycle(self._workers or [None])
        waiting: deque[tuple[Plan, int, Worker | None]] = deque()
        try:
            for forked in self._workers:
                forked.begin()
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
