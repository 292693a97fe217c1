"""train/checkpoint.py: whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from config.errors import DataError, Failure
from train import checkpoint
from train.checkpoint import Checkpoints, read_facts, read_state, read_weights

KILLED, LIVED = 9, 0


def weights(value: float) -> dict[str, Tensor]:
    return {"a.weight": torch.full((2, 3), value), "a.bias": torch.full((3,), value)}


def save(place: Checkpoints, step: int, value: float | None = None) -> Path:
    value = float(step) if value is None else value
    state = {"step": step, "moment": torch.full((3,), value)}
    return place.save(step, weights(value), state, {"_note": {"step": step}})


def value_of(folder: Path) -> float:
    """The number that all of a whole checkpoint says; an error if its parts disagree."""
    values = {tensor.mean().item() for tensor in read_weights(folder).values()}
    values.add(read_state(folder)["moment"].mean().item())
    assert len(values) == 1, f"{folder} is mixed: {values}"
    return values.pop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "ckpt").iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, keep=2)


def test_what_is_saved_is_read_again(place: Checkpoints) -> None:
    folder = save(place, 500)
    assert folder.name == "step-00000500"
    read = read_weights(folder)
    assert all(torch.equal(read[name], tensor) for name, tensor in weights(500).items())
    assert read.keys() == weights(500).keys()
    state = read_state(folder)
    assert state["step"] == 500
    assert torch.equal(state["moment"], torch.full((3,), 500.0))
    assert read_facts(folder) == {"step": 500}
    assert place.latest() == folder.resolve()
    assert place.best() is None


def test_a_new_folder_has_none(place: Checkpoints) -> None:
    assert place.latest() is None
    assert place.best() is None


def test_weights_that_share_or_skip_memory_are_saved_whole(place: Checkpoints) -> None:
    base = torch.arange(6.0).view(2, 3)
    folder = place.save(1, {"turned": base.T, "part": base[:, 1]}, {}, {})
    assert torch.equal(read_weights(folder)["turned"], base.T)
    assert torch.equal(read_weights(folder)["part"], base[:, 1])


def test_the_newest_and_the_best_are_kept(place: Checkpoints, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        target = save(place, step)
        if step == 2:
            place.point("best", target)
    assert names(tmp_path) == ["best", "latest", "step-00000002", "step-00000004", "step-00000005"]
    assert value_of(place.best() or tmp_path) == 2
    assert value_of(place.latest() or tmp_path) == 5


def test_a_run_that_went_back_keeps_what_it_just_saved(place: Checkpoints, tmp_path: Path) -> None:
    """Resumed from an older checkpoint: the newest is not the one with the highest number."""
    for step in (10, 20, 30):
        save(place, step)
    save(place, 12)
    latest = place.latest()
    assert latest is not None
    assert latest.name == "step-00000012"
    assert value_of(latest) == 12


def in_a_child(act: Any, dies_at: int | None, folder: Path) -> int:
    """Run `act` in a forked process that ends, like one killed, at its `dies_at`-th touch of the folder's files."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        touched = event.startswith(("open", "os.", "shutil.")) and any(str(folder) in str(arg) for arg in args)
        count += touched
        if touched and count == dies_at:
            os._exit(KILLED)

    sys.addaudithook(watch)
    try:
        act()
    finally:
        os._exit(LIVED)


@pytest.mark.parametrize("case", ["a later step", "the same step again", "the same step, of which it is the best"])
def test_killed_between_any_two_touches_a_whole_checkpoint_is_left(case: str, tmp_path: Path) -> None:
    old, new = (1, 2) if case == "a later step" else (2, 2)
    for moment in range(1, 200):
        folder = tmp_path / f"{moment}"
        place = Checkpoints(folder, keep=1)
        target = save(place, old, value=7.0)
        if "best" in case:
            place.point("best", target)
        code = in_a_child(lambda place=place: save(place, new, value=8.0), moment, folder)
        latest = place.latest()
        assert latest is not None, f"nothing is left after touch {moment}"
        assert value_of(latest) == (8 if code == LIVED else value_of(latest))
        assert value_of(latest) in (7, 8)
        save(place, 3)
        assert value_of(place.latest() or folder) == 3
        assert not list((folder / "ckpt").glob(".*partial"))
        if code == LIVED:
            assert moment > 12, "the moments of death were too few to say anything"
            return
    pytest.fail("the child never lived")


@pytest.mark.parametrize("broken", ["save_file", "sync", "torch.save", "rename", "symlink_to"])
def test_a_full_disk_leaves_the_old_one_and_says_what_to_do(
    broken: str, place: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(place, 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if broken in ("save_file", "sync"):
            patch.setattr(checkpoint, broken, full)
        elif broken == "torch.save":
            patch.setattr(torch, "save", full)
        else:
            patch.setattr(Path, broken, full)
        with pytest.raises(Failure, match=r"step-00000002: could not be saved \(.*No space left.*\); free") as told:
            save(place, 2)
    assert "\n" not in str(told.value)
    assert "it goes on from step-0000000" in str(told.value)
    assert value_of(place.latest() or tmp_path) in (1, 2)
    assert value_of(tmp_path / "ckpt" / "step-00000001") == 1
    assert not list((tmp_path / "ckpt").glob(".step*"))
    assert value_of(save(place, 3)) == 3


def test_the_first_save_on_a_full_disk_promises_nothing(place: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(Failure) as told:
        save(place, 2)
    assert str(told.value).endswith("start again with the same command")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_weights_are_refused(keep: int, place: Checkpoints) -> None:
    path = save(place, 1) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors: not a whole checkpoint") as told:
        read_weights(path.parent)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_state_is_refused(keep: int, place: Checkpoints) -> None:
    folder = save(place, 1)
    content = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(content[: len(content) // 2 if keep == -1 else keep])
    with pytest.raises(DataError, match=r"state\.pt: not whole .*--resume"):
        read_state(folder)


def test_damaged_facts_are_refused(place: Checkpoints) -> None:
    folder = save(place, 1)
    (folder / "config.json").write_text('{"_note": {"st')
    with pytest.raises(DataError, match=r"config\.json: not whole"):
        read_facts(folder)


def test_a_missing_checkpoint_says_what_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such checkpoint; name a checkpoint folder"):
        read_weights(tmp_path / "nothing.pt")
    with pytest.raises(DataError, match="no such checkpoint"):
        read_weights(tmp_path)


class Trap:
    """What a malicious file would hold."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("way", ["pickle", "torch"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_nothing_is_unpickled_blindly(way: str, suffix: str, tmp_path: Path) -> None:
    path, mark = tmp_path / f"model{suffix}", tmp_path / "sprung"
    with path.open("wb") as file:
        if way == "pickle":
            pickle.dump({"a": Trap(mark)}, file)
        else:
            torch.save({"a": Trap(mark)}, file)
    with pytest.raises(DataError, match=r"not a whole checkpoint|refused, it asks for"):
        read_weights(path)
    assert not mark.exists()


def test_a_trap_in_the_state_is_not_sprung(place: Checkpoints, tmp_path: Path) -> None:
    folder = save(place, 1)
    torch.save({"step": Trap(tmp_path / "sprung")}, folder / "state.pt")
    with pytest.raises(DataError, match="not whole"):
        read_state(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("inside", [None, "model", "state_dict"])
def test_published_files_are_read(inside: str | None, tmp_path: Path) -> None:
    state: dict[str, Any] = weights(3)
    torch.save({inside: state, "epoch": 4} if inside else state, tmp_path / "model.pt")
    read = read_weights(tmp_path / "model.pt")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_a_plain_safetensors_file_is_read(tmp_path: Path) -> None:
    save_file(weights(3), tmp_path / "m.safetensors")
    assert read_weights(tmp_path / "m.safetensors").keys() == weights(3).keys()


@pytest.mark.parametrize("content", [{"a": 1}, {"model": {"a": [1]}}, [torch.ones(1)], torch.ones(2), 5],
                         ids=["number", "nested", "list", "tensor", "int"])
def test_files_that_hold_something_else_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(DataError, match="holds more than named tensors"):
        read_weights(tmp_path / "model.pt")


def test_facts_of_foreign_weights_are_none(tmp_path: Path) -> None:
    save_file(weights(3), tmp_path / "model.safetensors")
    assert read_facts(tmp_path) == {}
    assert read_facts(tmp_path / "model.safetensors") == {}


def test_the_config_of_a_checkpoint_is_readable_json(place: Checkpoints) -> None:
    assert json.loads((save(place, 4) / "config.json").read_text())["_note"]["step"] == 4
