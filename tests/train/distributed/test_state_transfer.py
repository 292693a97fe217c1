"""train/distributed/state_transfer.py: the newest commit of any rank reaches all ranks, as a snapshot holds it."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import on_ranks
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Comm, Solo
from train.distributed.state_transfer import transfer_newest


def snapshot_at(step: int) -> Snapshot:
    weights = {"w": torch.arange(6.0).view(2, 3) * step, "half": torch.ones(3, dtype=torch.bfloat16) * step}
    moments = {0: {"m": torch.full((2,), float(step))}}
    state = {"optimizer": {"state": moments}, "best": -float("inf"), "list": [1, (2, 3)]}
    return Snapshot.of(step, weights, state, {"matcher": {"name": "x"}})


def same(one: Snapshot, other: Snapshot) -> bool:
    tensors = all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    moments = [found.state["optimizer"]["state"][0]["m"] for found in (one, other)]
    return tensors and torch.equal(*moments) and one.facts == other.facts and one.step == other.step


def test_a_snapshot_is_not_changed_by_later_updates() -> None:
    weight, moment = torch.ones(2), torch.ones(2)
    kept = Snapshot.of(3, {"w": weight}, {"deep": [{"m": moment}]}, {})
    weight.add_(1)
    moment.add_(1)
    assert kept.weights["w"].tolist() == [1, 1]
    assert kept.state["deep"][0]["m"].tolist() == [1, 1]


@pytest.mark.parametrize("held", [[4, None], [None, 4], [2, 4], [4, 4], [None, None, 7], [3, 7, 5]])
def test_all_ranks_get_the_newest(held: list[int | None]) -> None:
    def work(comm: Comm) -> Snapshot | None:
        step = held[comm.rank]
        return transfer_newest(None if step is None else snapshot_at(step), comm)

    wanted = snapshot_at(max(step for step in held if step is not None))
    for found in on_ranks(len(held), work):
        assert found is not None
        assert same(found, wanted)
        assert found.state["best"] == -float("inf")
        assert found.state["list"] == [1, (2, 3)]


def test_where_none_holds_one_there_is_none() -> None:
    assert on_ranks(3, lambda comm: transfer_newest(None, comm)) == [None] * 3
    assert transfer_newest(None, Solo()) is None
