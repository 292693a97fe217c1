"""train/metrics/throughput.py: where the ranks' time goes, who holds them up, and how it is told."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import load
from tests.items import VSRN, items_config
from tests.ranks import on_ranks
from tests.support import events, write_config
from train.assembly.kinds import KINDS
from train.assembly.recipe import build_parts
from train.distributed.comm import Comm, Solo
from train.evaluation.retrieval import measure
from train.metrics.clock import PARTS, Clock, Lap
from train.metrics.journal import Journal
from train.metrics.throughput import CLOCKED, combine_ranks, describe_pace, measure_ranks, report_throughput, summary

LAPS = [
    Lap(10, 0, {"load": 1, "train": 8}, {"updates": 4, "pairs": 100, "anchors": 8}),
    Lap(10, 4, {"load": 2, "train": 3}, {"updates": 4, "pairs": 200, "anchors": 8}),
    Lap(10, 5, {"load": 0, "train": 5}, {"updates": 4, "pairs": 300, "anchors": 4}),
]


class Told(Clock):
    """A clock that shows one lap."""

    def __init__(self, lap: Lap) -> None:
        super().__init__()
        self._lap = lap

    def so_far(self) -> Lap:
        return self._lap


def lap_of(elapsed: float, waited: float = 0.0, load: float = 0.0, **counts: int) -> Lap:
    return Lap(elapsed, waited, {"load": load}, counts)


@pytest.fixture
def three() -> list[dict[str, Any]]:
    """What three ranks find: the first is never waiting, the others wait for it."""
    return on_ranks(3, lambda comm: measure_ranks(Told(LAPS[comm.rank]), comm))


def test_all_ranks_know_how_all_of_them_spend_their_time(three: list[dict[str, Any]]) -> None:
    own = [f"{part}_s" for part in PARTS]
    assert [[found.pop(name) for name in own] for found in three] == [
        [0.25, 0, 2, 0, 0], [0.5, 0, 0.75, 0, 0], [0, 0, 1.25, 0, 0]]  # fmt: skip
    assert three[0] == three[1] == three[2]
    assert three[0] == {
        "pairs_per_s": 60, "anchors_per_s": 2, "load_share": 0.1, "comm_share": 0.3, "straggler": 0.3, "slowest": 0,
        "ranks": {"pairs_per_s": [10, 20, 30], "anchors_per_s": [0.8, 0.8, 0.4], "load_s": [0.25, 0.5, 0],
                  "compute_s": [2.25, 1, 1.25], "comm_s": [0, 1, 1.25]},
    }  # fmt: skip


def test_reading_late_holds_others_up_as_computing_long_does() -> None:
    laps = [lap_of(10, 3, load=0), lap_of(10, 0, load=3)]
    found = on_ranks(2, lambda comm: combine_ranks(laps[comm.rank], comm, ()))[0]
    assert (found["straggler"], found["slowest"]) == (0.15, 1)
    assert found["ranks"]["compute_s"] == [7, 7]


def test_where_all_wait_alike_nobody_holds_them_up() -> None:
    found = on_ranks(2, lambda comm: combine_ranks(lap_of(10, 4), comm, ()))[0]
    assert (found["straggler"], found["comm_share"]) == (0, 0.4)


def test_one_rank_waits_for_nobody() -> None:
    clock = Told(lap_of(2, 0, 0.5, updates=1, pairs=30, anchors=6))
    found = measure_ranks(clock, Solo())
    assert (found["pairs_per_s"], found["anchors_per_s"], found["load_s"]) == (15, 3, 0.5)
    assert (found["load_share"], found["comm_share"], found["straggler"], found["slowest"]) == (0.25, 0, 0, 0)
    assert clock.lap() == Lap(), "read once"
    assert found.keys() <= CLOCKED
    assert found["ranks"].keys() <= CLOCKED | {"compute_s", "comm_s"}


def test_nothing_done_in_no_time_is_no_error() -> None:
    found = measure_ranks(Told(Lap()), Solo())
    assert (found["pairs_per_s"], found["load_share"]) == (0, 0)


def test_numbers_are_short() -> None:
    found = combine_ranks(lap_of(3, 1, pairs=10), Solo(), ("pairs",))
    assert found["ranks"] == {"pairs_per_s": [3.333], "load_s": [0], "compute_s": [2], "comm_s": [1]}


def test_a_late_rank_is_named_by_real_clocks() -> None:
    """The others stand in the collective that the late one has not come to."""
    comms: dict[int, Comm] = {}

    def work(comm: Comm) -> dict[str, Any]:
        comms[comm.rank] = comm
        clock = Clock(comm.progress)
        if comm.rank == 1:
            while any(rank not in comms or comms[rank].progress.collective != "barrier.there" for rank in (0, 2)):
                time.sleep(0.01)
            time.sleep(0.2)
        comm.barrier("there")
        return measure_ranks(clock, comm)

    found = on_ranks(3, work)[0]
    waited = found["ranks"]["comm_s"]
    assert found["slowest"] == 1
    assert min(waited[0], waited[2]) >= 0.2
    assert found["straggler"] > 0


def test_the_device_memory_is_told_where_there_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 3 << 29)
    found = measure_ranks(Told(lap_of(10, 0, 0.31)), Solo())
    assert found["ranks"]["memory_gib"] == [1.5]
    assert summary(found) == "data 3 %  memory 1.5 GiB"


def test_the_summary_names_the_slowest(three: list[dict[str, Any]]) -> None:
    assert summary(three[0]) == "data 10 %  comm 30 %  straggler 30 % (rank 0)"
    assert summary(three[0] | {"straggler": 0.004}) == "data 10 %  comm 30 %  straggler 0 %"
    assert summary(measure_ranks(Told(lap_of(10, 0, 2)), Solo())) == "data 20 %"


def test_what_work_took_is_an_event_and_a_line(tmp_path: Path) -> None:
    clock = Clock()
    clock.count("pairs", 1000)  # of other work, before
    with Journal(tmp_path, tensorboard=False) as journal, report_throughput("evaluate", "test", clock, Solo(), journal):
        clock.count("images", 3)
        clock.count("pairs", 12)
    (event,) = events(tmp_path, "evaluate")
    assert event["name"] == "test"
    assert event.keys() - {"event", "name"} <= CLOCKED
    assert event["pairs_per_s"] * event["elapsed_s"] == pytest.approx(12, rel=2e-3)
    assert event["pairs_per_s"] == pytest.approx(4 * event["images_per_s"], rel=2e-3)
    line = (tmp_path / "log.txt").read_text()
    assert "test: took " in line
    assert "  images/s " in line
    assert "  pairs/s " in line
    assert "texts/s" not in line, "there were none"
    assert line.endswith("  data 0 %\n")


def test_of_work_that_fails_nothing_is_told(tmp_path: Path) -> None:
    def fail() -> None:
        with report_throughput("evaluate", "test", Clock(), Solo(), journal):
            raise ValueError

    with Journal(tmp_path, tensorboard=False) as journal, pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert (tmp_path / "metrics.jsonl").read_text() == (tmp_path / "log.txt").read_text() == ""


def test_the_pace_of_one_rank_so_far() -> None:
    assert describe_pace(lap_of(2, 0, 0.5, images=3, pairs=40)) == "images/s 1.5  pairs/s 20  data 25 %"
    assert describe_pace(lap_of(0)) == "data 0 %"


@pytest.mark.parametrize("two_stage", [0, 5])
def test_an_evaluation_counts_what_each_rank_does(
    two_stage: int, stores: tuple[Path, Path], tmp_path: Path
) -> None:
    config = items_config(stores, matcher=VSRN, eval={"tokens_per_block": 30, "two_stage": two_stage})
    parts = build_parts(load(write_config(tmp_path / "run.json", config), {}, KINDS), Solo())
    split = parts.split("test")
    assert split is not None

    def work(comm: Comm) -> None:
        with Journal(tmp_path, comm.rank, tensorboard=False) as journal:
            measure(replace(parts, comm=comm), split, "test", tmp_path, journal)

    on_ranks(2, work)
    (event,) = events(tmp_path, "evaluate")
    ranks = {name: np.array(each) for name, each in event["ranks"].items()}
    assert all((ranks[f"{name}_per_s"] > 0).all() for name in ("images", "texts", "pairs"))
    assert all(ranks[f"{name}_s"].shape == (2,) for name in ("load", "compute", "comm"))
    assert max(ranks["load_s"]) > 0
    assert max(ranks["comm_s"]) > 0, "somebody waits; who came last may not"
    if not two_stage:
        assert event["pairs_per_s"] * event["elapsed_s"] == pytest.approx(24 * 48, rel=0.05), "each pair is scored once"
    assert "% scored  images/s" in (tmp_path / "log.txt").read_text()
