"""train/mining/job.py: what ranks decide together, and what a start leaves to the next one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import Failure
from tests.mined import CPU, embeddings, owners
from tests.train.conftest import Pretended
from train.distributed.comm import Comm, Solo
from train.mining import job as module
from train.mining import screen
from train.mining.job import Job
from train.mining.manifest import GivenEmbeddings, checksum
from train.mining.output_folder import OutputFolder
from train.mining.settings import Settings


def job(folder: Path, comm: Comm | None = None) -> Job:
    for name, rows in zip(("img", "cap"), embeddings(20, 60), strict=True):
        np.save(folder / f"{name}.npy", rows.numpy(), allow_pickle=False)
    asked = Settings(5, 3, max_tile_bytes=1 << 12, screen="float32")
    source = GivenEmbeddings(folder / "img.npy", folder / "cap.npy")
    return Job(comm or Solo(), CPU, folder / "lists", asked, source, owners(20, 60), None, lambda _: None)


class Second(Pretended):
    """The second of two ranks, told what the first one says each time."""

    def __init__(self, *said: Any) -> None:
        super().__init__(1, 2)
        self._said = iter(said)

    def all_gather_object(self, value: Any) -> list[Any]:
        return [next(self._said), value]


def test_all_rows_are_looked_at_for_a_screen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, looked = job(tmp_path), []
    monkeypatch.setattr(screen, "scaling_power", lambda _, what: looked.append(what) or 0.5)
    one._work.mkdir(parents=True)
    task = one._task(*one._embeddings(False), False)
    chosen = one._screen(task)
    assert looked == ["the images", "the texts"]
    assert one._screen(task) == chosen, "as it was noted"
    told = [one.settings.screen, chosen.kind, chosen.image_scale, chosen.text_scale]
    assert job(tmp_path, Second(told))._screen(task) == chosen
    assert len(looked) == 2
    assert chosen.image_scale == 0.5


def test_a_screen_that_cannot_be_noted_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(Failure, match=r"screen\.json: cannot be written \(No space left on device\)"):
        job(tmp_path).run()


def test_other_ranks_do_as_the_first_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They look into the unfinished folder only where the first one is not at work there."""
    job(tmp_path).run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "lists").iterdir()}
    monkeypatch.setattr(OutputFolder, "is_whole", lambda _: pytest.fail("looked where the first rank is at work"))
    monkeypatch.setattr(Job, "_make", lambda *_: pytest.fail("made what is whole"))
    sums = [checksum(tmp_path / f"{name}.npy") for name in ("img", "cap")]
    not_done, whole = False, True
    job(tmp_path, Second(sums, not_done, whole)).run()
    assert {path.name: path.read_bytes() for path in (tmp_path / "lists").iterdir()} == before
