"""train/loop/running_means.py: what updates cost over ranks, and the digest of the samples they took."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from data.batches.plan import DIGESTS
from tests.ranks import on_ranks
from train.distributed.comm import Comm, Solo
from train.loop.running_means import RunningMeans

CPU = torch.device("cpu")


def test_costs_are_meant_over_updates_and_ranks() -> None:
    def work(comm: Comm) -> dict[str, float]:
        means = RunningMeans(comm, CPU)
        for update in (1.0, 2.0):
            parts = [("part", torch.tensor(1.0)), ("part", torch.tensor(2.0))]
            means.update([("loss", torch.tensor(update + comm.rank)), *parts])
        return means.means()

    assert on_ranks(2, work) == [{"loss": 2.0, "part": 3.0}] * 2


def test_nothing_summed_is_nothing_told() -> None:
    means = RunningMeans(Solo(), CPU)
    assert means.means() == {}
    means.update([("loss", torch.tensor(4.0))])
    means.clear()
    assert means.means() == {}


def marked(shares: list[list[int]]) -> str:
    """The digest that all ranks agree on."""
    def work(comm: Comm) -> str:
        means = RunningMeans(comm, CPU)
        for digest in shares[comm.rank]:
            means.add_digest(digest)
        return means.samples()

    found = on_ranks(len(shares), work)
    assert len(set(found)) == 1
    return found[0]


def test_the_mark_does_not_depend_on_who_took_what() -> None:
    big = DIGESTS - 1
    assert marked([[1, 2, big, 7]]) == marked([[7, 1], [big, 2]]) == marked([[], [2, 1], [7, big]]) == f"{9:016x}"


def test_another_sample_is_another_mark() -> None:
    assert marked([[1, 2], [3]]) != marked([[1, 2], [4]])


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_resume_on_other_ranks_goes_on_from_the_state(ranks: int) -> None:
    """Two ranks, then `ranks`: sums, updates and samples are those of all."""
    def before(comm: Comm) -> Any:
        means = RunningMeans(comm, CPU)
        means.update([("loss", torch.tensor(1.0 + comm.rank))])
        means.add_digest(10 + comm.rank)
        return means.state_dict()

    state = on_ranks(2, before)[0]

    def after(comm: Comm) -> tuple[dict[str, float], str]:
        means = RunningMeans(comm, CPU)
        means.load_state_dict(state)
        means.update([("loss", torch.tensor(4.5))])
        means.add_digest(100)
        return means.means(), means.samples()

    assert on_ranks(ranks, after) == [({"loss": 3.0}, f"{21 + 100 * ranks:016x}")] * ranks


def test_asking_twice_changes_nothing() -> None:
    means = RunningMeans(Solo(), CPU)
    means.add_digest(5)
    assert means.samples() == means.samples() == f"{5:016x}"


def test_ranks_that_go_on_sum_to_the_bit_what_they_would_have_summed() -> None:
    """Each from its own sums: a mean of means rounds differently."""
    def costs(comm: Comm, update: int) -> list[tuple[str, torch.Tensor]]:
        return [("loss", torch.tensor(0.1 * (update + 1) + 0.7 * comm.rank))]

    def undisturbed(comm: Comm) -> float:
        means = RunningMeans(comm, CPU)
        for update in range(9):
            means.update(costs(comm, update))
        return means.means()["loss"]

    def resumed(comm: Comm) -> float:
        first, second = RunningMeans(comm, CPU), RunningMeans(comm, CPU)
        for update in range(5):
            first.update(costs(comm, update))
        second.load_state_dict(first.state_dict())
        for update in range(5, 9):
            second.update(costs(comm, update))
        return second.means()["loss"]

    assert on_ranks(2, resumed) == on_ranks(2, undisturbed)


def test_an_empty_tally_is_a_state_too() -> None:
    means = RunningMeans(Solo(), CPU)
    means.load_state_dict(RunningMeans(Solo(), CPU).state_dict())
    assert means.means() == {}
