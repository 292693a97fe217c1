"""Whole or not at all, whatever happens in between (all of that: tests/faults/test_boundaries.py)."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from config.errors import DataError, Failure
from train.checkpointing import checkpoint
from train.checkpointing.checkpoint import Checkpoints, read_facts, read_state, read_weights
from train.checkpointing.snapshot import Snapshot


def weights(value: float) -> dict[str, Tensor]:
    return {"a.weight": torch.full((2, 3), value), "a.bias": torch.full((3,), value)}


def save(place: Checkpoints, step: int, value: float | None = None) -> Path:
    value = float(step) if value is None else value
    state = {"step": step, "moment": torch.full((3,), value)}
    return place.write(Snapshot(step, weights(value), state, {"_note": {"step": step}}))


def value_of(folder: Path | None) -> float:
    """The number that all of a whole checkpoint says; an error if its parts disagree."""
    assert folder is not None
    values = {tensor.mean().item() for tensor in read_weights(folder).values()}
    values.add(read_state(folder)["moment"].mean().item())
    assert len(values) == 1, f"{folder} is mixed: {values}"
    return values.pop()


def newest(place: Checkpoints) -> Path | None:
    """The newest one, where none is damaged."""
    said: list[str] = []
    found = place.newest(said.append)
    assert said == []
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "ckpt").iterdir())


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def place(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, keep=2)


def test_what_is_saved_is_read_again(place: Checkpoints, tmp_path: Path) -> None:
    folder = save(place, 500)
    assert folder.name == "step-00000500"
    read = read_weights(folder)
    assert all(torch.equal(read[name], tensor) for name, tensor in weights(500).items())
    assert read.keys() == weights(500).keys()
    state = read_state(folder)
    assert state["step"] == 500
    assert torch.equal(state["moment"], torch.full((3,), 500.0))
    assert read_facts(folder) == {"step": 500}
    assert newest(place) == folder
    assert (tmp_path / "ckpt" / "latest").resolve() == folder.resolve()
    assert place.best() is None


def test_a_new_folder_has_none(place: Checkpoints) -> None:
    assert newest(place) is None
    assert place.best() is None


def test_weights_that_share_or_skip_memory_are_saved_whole(place: Checkpoints) -> None:
    base = torch.arange(6.0).view(2, 3)
    folder = place.write(Snapshot.of(1, {"turned": base.T, "part": base[:, 1]}, {}, {}))
    assert torch.equal(read_weights(folder)["turned"], base.T)
    assert torch.equal(read_weights(folder)["part"], base[:, 1])


def test_the_newest_and_the_best_are_kept(place: Checkpoints, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(place, step)
        if step == 2:
            place.mark_best(2)
    assert names(tmp_path) == ["best", "latest", "step-00000002", "step-00000004", "step-00000005"]
    assert value_of(place.best()) == 2
    assert value_of(newest(place)) == 5


def test_a_run_that_went_back_keeps_what_it_just_saved(place: Checkpoints, tmp_path: Path) -> None:
    """Resumed from an older checkpoint: the newest is not the one with the highest number."""
    for step in (10, 20, 30):
        save(place, step)
    place.continue_from(tmp_path / "ckpt" / "step-00000020")
    save(place, 22)
    assert value_of(newest(place)) == 22
    assert names(tmp_path) == ["latest", *(f"step-000000{step}" for step in (20, 22, 30))]
    save(Checkpoints(tmp_path, keep=2), 24)
    assert names(tmp_path) == ["latest", "step-00000022", "step-00000024"]
    assert value_of(newest(place)) == 24


def test_a_damaged_one_does_not_count_among_those_that_are_kept(place: Checkpoints, tmp_path: Path) -> None:
    """A flipped bit is seen when it is read, not when old ones are removed: the run tells which it goes on from."""
    for step in (10, 20):
        save(place, step)
    spoil(tmp_path / "ckpt" / "step-00000020" / "state.pt")
    place.continue_from(tmp_path / "ckpt" / "step-00000010")
    save(place, 12)
    assert "step-00000010" in names(tmp_path)
    spoil(tmp_path / "ckpt" / "step-00000012" / "state.pt")
    said: list[str] = []
    assert value_of(place.newest(said.append)) == 10
    assert [line.partition(": ")[2] for line in said] == [
        "state.pt does not match its checksum; going on with step-00000010"] * 2


def test_one_whose_mark_tells_nothing_is_named_whatever_its_step(place: Checkpoints, tmp_path: Path) -> None:
    for step in (10, 20):
        save(place, step)
    (tmp_path / "ckpt" / "step-00000010" / "complete.json").unlink()
    said: list[str] = []
    assert value_of(place.newest(said.append)) == 20
    assert said == [f"{tmp_path}/ckpt/step-00000010: complete.json is missing; going on with step-00000020"]


def test_other_folders_are_left_alone(place: Checkpoints, tmp_path: Path) -> None:
    mine = tmp_path / "ckpt" / "step-of-mine"
    mine.mkdir(parents=True)
    shutil.copytree(save(place, 1), tmp_path / "ckpt" / "step-00000001-copy")
    for step in (2, 3, 4):
        save(place, step)
    assert names(tmp_path) == ["latest", "step-00000001-copy", "step-00000003", "step-00000004", "step-of-mine"]


def test_going_on_mends_the_link_to_the_newest(place: Checkpoints, tmp_path: Path) -> None:
    for step in (10, 20):
        save(place, step)
    link = tmp_path / "ckpt" / "latest"
    link.unlink()
    link.symlink_to("step-00000010")
    place.continue_from(tmp_path / "ckpt" / "step-00000010")
    assert link.readlink().name == "step-00000010"
    place.continue_from(link.parent / "step-00000020")
    assert link.readlink().name == "step-00000020"


def test_going_on_from_elsewhere_changes_nothing(place: Checkpoints, tmp_path: Path) -> None:
    other = save(Checkpoints(tmp_path / "other", keep=1), 7)
    place.continue_from(other)
    place.continue_from(tmp_path / "nothing")
    place.mark_best(7)
    assert place.best() is None
    assert not (tmp_path / "ckpt").exists()


def test_the_best_is_found_where_a_lost_process_put_it_aside(place: Checkpoints, tmp_path: Path) -> None:
    folder = save(place, 10)
    place.mark_best(10)
    folder.rename(f"{folder}.before")
    assert place.best() == newest(place) == tmp_path / "ckpt" / "step-00000010.before"
    save(place, 20)
    assert names(tmp_path) == ["best", "latest", "step-00000010", "step-00000020"]
    assert value_of(place.best()) == 10


@pytest.mark.parametrize("broken", ["write_tensors", "sync", "torch.save", "rename", "symlink_to"])
def test_a_full_disk_leaves_the_old_one_and_says_what_to_do(
    broken: str, place: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(place, 1)
    with monkeypatch.context() as patch:
        if broken in ("write_tensors", "sync"):
            patch.setattr(checkpoint, broken, full)
        elif broken == "torch.save":
            patch.setattr(torch, "save", full)
        else:
            patch.setattr(Path, broken, full)
        with pytest.raises(Failure, match=r"step-00000002: could not be saved \(.*No space left.*\); free") as told:
            save(place, 2)
    assert "\n" not in str(told.value)
    assert "it goes on from step-0000000" in str(told.value)
    assert value_of(newest(place)) in (1, 2)
    assert value_of(tmp_path / "ckpt" / "step-00000001") == 1
    assert not list((tmp_path / "ckpt").glob(".step*"))
    assert value_of(save(place, 3)) == 3


def test_the_first_save_on_a_full_disk_promises_nothing(place: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(Failure) as told:
        save(place, 2)
    assert str(told.value).endswith("start again with the same command")


def test_what_cannot_be_chosen_or_removed_is_told(
    place: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for step in (1, 2):
        save(place, step)
    (tmp_path / "ckpt" / "latest").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", full)
        told = r"cannot be made to say step-00000002 \(.*No space.*from step-00000002"
        with pytest.raises(Failure, match=rf"ckpt/best: {told}"):
            place.mark_best(2)
        with pytest.raises(Failure, match=rf"ckpt/latest: {told}"):
            place.continue_from(tmp_path / "ckpt" / "step-00000002")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_hide", full)
        with pytest.raises(Failure, match=r"older checkpoints could not be removed .*No space.* from step-00000003"):
            save(place, 3)
    assert place.best() is None
    assert value_of(newest(place)) == 3


def test_nothing_is_removed_that_could_not_be_read(place: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment says nothing about what is on it."""
    for step in (1, 2):
        save(place, step)
    real = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path.parent.name == "step-00000002":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        with pytest.raises(Failure, match=r"older checkpoints could not be removed .*Input/output error"):
            save(place, 3)
        said: list[str] = []
        assert value_of(place.newest(said.append)) == 3
        assert "step-00000002: complete.json cannot be read (Input/output error)" in said[0]
    save(place, 4)
    assert value_of(newest(place)) == 4


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "read"), [("model.safetensors", read_weights), ("state.pt", read_state),
                                            ("config.json", read_facts)])
def test_what_does_not_match_the_mark_is_not_read(name: str, read: Any, place: Checkpoints) -> None:
    """Every place of every file: tests/faults/test_boundaries.py."""
    folder = save(place, 1)
    size = (folder / name).stat().st_size
    spoil(folder / name)
    with pytest.raises(DataError, match=rf"step-00000001: {name} does not match its checksum; copy the checkpoint"):
        read(folder)
    os.truncate(folder / name, 3)
    with pytest.raises(DataError, match=rf"step-00000001: {name} has 3 bytes, and {size} were written; copy"):
        read(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"step-00000001: {name} is missing; copy the checkpoint again, or name "):
        read(folder)


def test_weights_named_as_a_file_are_verified_too(place: Checkpoints) -> None:
    path = save(place, 1) / "model.safetensors"
    spoil(path)
    with pytest.raises(DataError, match="does not match its checksum"):
        read_weights(path)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_weights_without_a_mark_are_refused(keep: int, place: Checkpoints) -> None:
    path = save(place, 1) / "model.safetensors"
    (path.parent / "complete.json").unlink()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors: not a whole checkpoint") as told:
        read_weights(path.parent)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_state_without_a_mark_is_refused(keep: int, place: Checkpoints) -> None:
    folder = save(place, 1)
    (folder / "complete.json").unlink()
    content = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(content[: len(content) // 2 if keep == -1 else keep])
    with pytest.raises(DataError, match=r"state\.pt: not whole .*--resume"):
        read_state(folder)


def test_damaged_facts_without_a_mark_are_refused(place: Checkpoints) -> None:
    folder = save(place, 1)
    (folder / "complete.json").unlink()
    (folder / "config.json").write_text('{"_note": {"st')
    with pytest.raises(DataError, match=r"config\.json is not JSON"):
        read_facts(folder)


def test_a_missing_checkpoint_says_what_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such checkpoint; name a checkpoint folder"):
        read_weights(tmp_path / "nothing.pt")
    with pytest.raises(DataError, match="is an empty folder, no checkpoint; name a checkpoint folder"):
        read_weights(tmp_path)


class Trap:
    """What a malicious file would hold."""

    def __init__(self, mark: Path) -> None:
        self.manifest = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.manifest,)


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
    (folder / "complete.json").unlink()
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
