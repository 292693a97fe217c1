"""Calls that may block for ever, run with a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_with_timeout(seconds: float, act: Callable[[], T]) -> T:
    """The result of `act()`, made in a thread of its own: a wait in C in the main thread would keep signals unanswered.

    Raises:
        TimeoutError: it takes longer than `seconds`; the thread is left behind, so end the process without joining it.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(act())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True, name=getattr(act, "__name__", "act")).start()
    return result.result(max(seconds, 0.0))
