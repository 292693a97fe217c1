"""Work of a program on many items: over processes, in order, with a bar that shows how far it is."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map` over processes: results in the order of the items, and only a few of them waiting in memory.

    The function must be picklable. With fewer than two workers it is called here.
    """
    if workers < 2:
        yield from map(function, items)
        return
    with one_thread_each(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started meanwhile calculate with one thread: they share the processors, threads would only wait."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items, with a bar on stderr while they go by; without a terminal there is none."""
    bar: Any = tqdm(items, total=total, unit=what, disable=None)
    return iter(bar)


def batches(items: list[Item], size: int) -> list[list[Item]]:
    """Consecutive stretches of at most `size` items."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
