"""train/mining/distributed_scan.py: ranks on paper find what one does, and a stopped pass goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batches.pairs import Array
from tests.mined import CPU, searched, task
from tests.train.conftest import Pretended
from train.distributed.comm import Solo
from train.mining import distributed_scan
from train.mining.distributed_scan import DistributedScan, merge_found
from train.mining.lists import Direction, Task, finish_lists, row_writer
from train.mining.scan import Scan
from train.mining.screen import choose_screen

TILE = 1 << 10


def passes(one: Task, folder: Path, size: int, kind: str = "float16") -> list[DistributedScan]:
    screen = choose_screen(one.images, one.texts, kind, CPU)
    comms = [Pretended(rank, size) if size > 1 else Solo() for rank in range(size)]
    return [DistributedScan(one, comm, screen, TILE, folder, 0.0, lambda _: None) for comm in comms]


def lists_of(one: Task, ranks: list[DistributedScan]) -> list[Array]:
    """Both lists, written by all ranks once all have run."""
    out = []
    for at, direction in enumerate(Direction.both(one)):
        places = np.full((len(direction.queries), direction.most), -7, np.int32)
        for rank in ranks:
            found = rank.of_texts() if at else rank.of_images()
            finish_lists(direction, found, CPU, TILE, row_writer(places), scored=False)
        out.append(places)
    return out


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("steps", [0, 1])
def test_any_number_of_ranks_finds_the_same(size: int, steps: int, tmp_path: Path) -> None:
    one = task(images=41, texts=230, wanted=(30, 9), steps=steps)
    ranks = passes(one, tmp_path / "pass", size)
    assert sorted(row for rank in ranks for row in rank.rows) == list(range(41))
    for rank in ranks:
        rank.run()
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(lists_of(one, ranks), searched(one), strict=True))
    assert not list((tmp_path / "pass").glob("*state*"))


@pytest.mark.parametrize("tile", range(0, 60, 7))
def test_a_pass_that_was_stopped_after_any_tile_goes_on(
    tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(images=70, texts=230, wanted=(30, 9))
    rank, taken = passes(one, tmp_path / "pass", 1)[0], []
    whole = Scan.step

    def step(self: Scan) -> object:
        if len(taken) == tile:
            raise KeyboardInterrupt
        taken.append((self.block, self.tile))
        return whole(self)

    with monkeypatch.context() as patch:
        patch.setattr(Scan, "step", step)
        with pytest.raises(KeyboardInterrupt):
            rank.run()
    left: list[tuple[int, int]] = []

    def noted(self: Scan) -> object:
        left.append((self.block, self.tile))
        return whole(self)

    monkeypatch.setattr(Scan, "step", noted)
    again = replace(rank, said=lambda _: None)
    again.run()
    assert not set(taken) & set(left), "no tile was computed twice"
    assert len(taken) + len(left) == again._scan().tiles > 60
    for mine, theirs in zip(lists_of(one, [again]), searched(one), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_pass_that_has_ended_computes_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = passes(task(), tmp_path / "pass", 1)[0]
    rank.run()
    monkeypatch.setattr(distributed_scan.DistributedScan, "_take_in", lambda *_: pytest.fail("computed again"))
    rank.run()


def test_merging_keeps_what_may_be_among_the_best(tmp_path: Path) -> None:
    one = task(images=40, texts=60, wanted=(5, 6))
    ranks = passes(one, tmp_path / "pass", 4)
    for rank in ranks:
        rank.run()
    best = searched(one)[1]
    entries = 0
    for rank in ranks:
        for found in rank.of_texts():
            for text, chosen in zip(found.rows, found.lists.chosen.split(found.lists.counts.tolist()), strict=True):
                assert set(best[text].tolist()) <= set(chosen.tolist())
                entries += len(chosen)
    assert entries < 1.5 * best.size, "what only a rank's own images had to offer is gone"


def test_nothing_is_left_out_of_a_merge_under_a_ceiling() -> None:
    found = distributed_scan.unpack_found(
        {
            "counts": torch.tensor([2]),
            "chosen": torch.tensor([3, 4]),
            "lower": torch.tensor([0.9, 0.1]),
            "upper": torch.tensor([1.0, 0.2]),
        },
        range(1),
    )
    assert merge_found([found, found], 1).lists.chosen.tolist() == [3, 3]
    assert merge_found([found, found], None).lists.chosen.tolist() == [3, 4, 3, 4]
