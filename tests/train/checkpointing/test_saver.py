"""train/checkpointing/saver.py: written by another thread, one at a time, and nothing that fails is kept quiet."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from config.errors import Failure
from train.checkpointing.checkpoint import Checkpoints, read_weights
from train.checkpointing.saver import AsyncSaver
from train.checkpointing.snapshot import Snapshot

PATIENCE_S = 20


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"a": torch.full((2,), float(step))}, {"step": step}, {})


class Slow(Checkpoints):
    """Writes when it is let, and fails for steps that it is told to."""

    def __init__(self, folder: Path, fails: int = -1) -> None:
        super().__init__(folder, keep=9)
        self.let, self.fails, self.threads = threading.Event(), fails, set[int]()
        self.at_once, self.most_at_once = 0, 0

    def write(self, snapshot: Snapshot) -> Path:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.threads.add(threading.get_ident())
        assert self.let.wait(PATIENCE_S)
        try:
            if snapshot.step == self.fails:
                raise Failure(f"step {snapshot.step}: could not be saved")
            return super().write(snapshot)
        finally:
            self.at_once -= 1


def test_saving_returns_at_once_and_tells_later(tmp_path: Path) -> None:
    place = Slow(tmp_path)
    with AsyncSaver(place) as saver:
        assert not saver.writes()
        saver.save(snapshot(10))
        assert saver.writes()
        assert saver.done() == []
        assert place.newest(print) is None
        place.let.set()
        saver.wait()
        assert not saver.writes()
        [saved] = saver.done()
        assert saver.done() == []
    assert (saved.step, saved.path) == (10, tmp_path / "ckpt" / "step-00000010")
    assert 0 < saved.seconds < PATIENCE_S
    assert place.newest(print) == saved.path
    assert threading.get_ident() not in place.threads


def test_one_is_written_at_a_time_in_their_order(tmp_path: Path) -> None:
    place = Slow(tmp_path)
    with AsyncSaver(place) as saver:
        saver.save(snapshot(10))
        threading.Timer(0.05, place.let.set).start()
        saver.save(snapshot(20))
        assert place.newest(print) is not None, "the second is begun when the first is on disk"
        saver.save(snapshot(30))
        saver.wait()
        assert [saved.step for saved in saver.done()] == [10, 20, 30]
    assert place.most_at_once == 1


def test_what_is_written_is_what_was_given(tmp_path: Path) -> None:
    """The model goes on changing; the snapshot does not."""
    place, weights = Slow(tmp_path), {"a": torch.zeros(2)}
    with AsyncSaver(place) as saver:
        saver.save(Snapshot.of(10, weights, {}, {}))
        weights["a"] += 1
        place.let.set()
    assert read_weights(tmp_path / "ckpt" / "step-00000010")["a"].tolist() == [0, 0]


@pytest.mark.parametrize("asked", ["save", "wait", "done"])
def test_a_failed_write_is_told_at_the_next_call_and_once(asked: str, tmp_path: Path) -> None:
    place = Slow(tmp_path, fails=10)
    place.let.set()
    with AsyncSaver(place) as saver:
        saver.save(snapshot(10))
        while asked == "done" and not saver._writing.done():  # type: ignore[union-attr]
            pass
        calls = {"save": lambda: saver.save(snapshot(20)), "wait": saver.wait, "done": saver.done}
        with pytest.raises(Failure, match="step 10: could not be saved"):
            calls[asked]()
        saver.save(snapshot(30))
        saver.wait()
        assert [saved.step for saved in saver.done()] == [30], "the one that was refused is not begun"
    assert [path.name for path in (tmp_path / "ckpt").glob("step-*")] == ["step-00000030"]


def test_leaving_waits_until_all_is_on_disk(tmp_path: Path) -> None:
    place = Slow(tmp_path)
    with AsyncSaver(place) as saver:
        saver.save(snapshot(10))
        threading.Timer(0.05, place.let.set).start()
    assert place.newest(print) == tmp_path / "ckpt" / "step-00000010"
    assert [saved.step for saved in saver.done()] == [10]


def test_leaving_tells_of_a_failed_write(tmp_path: Path) -> None:
    place = Slow(tmp_path, fails=10)
    place.let.set()
    with pytest.raises(Failure, match="step 10"), AsyncSaver(place) as saver:
        saver.save(snapshot(10))


@pytest.mark.parametrize("fails", [-1, 10])
def test_an_error_that_is_on_its_way_is_not_hidden(fails: int, tmp_path: Path) -> None:
    place = Slow(tmp_path, fails)

    def leaves() -> None:
        with AsyncSaver(place) as saver:
            saver.save(snapshot(10))
            threading.Timer(0.05, place.let.set).start()
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else") as told:
        leaves()
    assert (place.newest(print) is None) == (fails == 10), "what was begun is on disk"
    assert getattr(told.value, "__notes__", []) == (["step 10: could not be saved"] if fails == 10 else [])
