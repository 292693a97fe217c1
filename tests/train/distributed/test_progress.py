"""train/distributed/progress.py, and how train/distributed/comm.py keeps it."""

from __future__ import annotations

import time

import pytest
import torch

from tests.ranks import on_ranks
from train.distributed.comm import Comm, Solo, Wait


class Slow(Solo):
    """A group whose collectives tell where they are taken to stand, and take a moment; "broken" ones fail."""

    size = 2

    def __init__(self) -> None:
        self.stood: list[str] = []

    def _stand(self, name: str) -> None:
        self.stood.append(self.progress.collective)
        time.sleep(0.02)
        if name == "broken":
            raise RuntimeError("gone")

    def _mean_async_(self, tensor: torch.Tensor, name: str) -> Wait:
        self.stood.append(f"sent with {self.progress.collective!r}")
        return lambda: self._stand(name)

    def _gather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        self._stand(name)
        return tensor

    def _broadcast_(self, tensor: torch.Tensor, name: str, root: int) -> None:
        self._stand(name)


def test_a_rank_stands_in_a_collective_while_it_waits_for_it_and_that_time_is_counted() -> None:
    comm, value = Slow(), torch.zeros(1)
    wait = comm.mean_async_(value, "mean")
    assert comm.progress.collective == ""
    assert comm.progress.waited_s < 0.02, "what goes on behind other work costs nothing"
    wait()
    comm.gather(value, "rows")
    comm.broadcast_(value, "weights")
    comm.barrier("end")
    assert comm.stood == ["sent with 'mean'", "mean", "rows", "weights", "sent with 'barrier.end'",
                          "barrier.end"]
    assert comm.progress.collective == ""
    assert comm.progress.waited_s >= 4 * 0.02


def test_the_name_of_a_collective_that_failed_stays() -> None:
    comm = Slow()
    with pytest.raises(RuntimeError, match="gone"):
        comm.gather(torch.zeros(1), "broken")
    assert comm.progress.collective == "broken"
    assert comm.progress.waited_s >= 0.02


def test_whatever_goes_on_is_a_sign_of_life() -> None:
    progress, seen = Solo().progress, []
    progress.begin_step(7)
    seen.append(progress.heartbeat().advances)
    progress.advance()
    seen.append(progress.heartbeat().advances)
    with progress.in_collective("a"):
        seen.append(progress.heartbeat().advances)
    seen.append(progress.heartbeat().advances)
    assert list(progress.advance_over("ab")) == ["a", "b"]
    seen.append(progress.heartbeat().advances)
    assert seen == sorted(set(seen))
    assert seen[-1] == seen[-2] + 2
    assert str(progress.heartbeat()) == "step 7 outside of collectives"


def test_a_copy_tells_what_was_given_where_all_must_give_the_same() -> None:
    progress, value = Solo().progress, torch.zeros(2, 3, dtype=torch.float16)
    progress.begin_step(7)
    with progress.in_collective("gradient.a", value):
        now = progress.heartbeat()
    assert (str(now), now.sent) == ("step 7 in gradient.a", "[2, 3] float16")
    assert progress.heartbeat().sent == ""


def test_each_rank_has_a_place_of_its_own() -> None:
    def work(comm: Comm) -> int:
        comm.progress.begin_step(comm.rank + 1)
        comm.barrier("both")
        return comm.progress.step

    assert on_ranks(2, work) == [1, 2]
