"""train/mining/output_folder.py: other lists are refused, and no kill leaves a folder that says what is not so."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config.errors import ConfigError, Failure
from data.batches.candidates import MANIFEST
from data.batches.pairs import PairIndex
from model.vsrn import Config, Vsrn
from tests.items import VSRN
from tests.mined import CPU, embeddings, owners
from train.distributed.comm import Solo
from train.mining.job import Job
from train.mining.manifest import GivenEmbeddings, ModelEmbeddings
from train.mining.output_folder import UNFINISHED
from train.mining.settings import Settings
from train.scoring.scorer import Scorer

ASKED = Settings(5, 3, max_tile_bytes=1 << 12, save_seconds=9.0, scores=True, keep_embeddings=True)


class Killed(BaseException):
    """The process ends here."""


def encoding(index: PairIndex, folder: Path, settings: Settings = ASKED, seed: int = 0) -> Job:
    """A job that encodes the tiny stores; `seed` decides its weights."""
    torch.manual_seed(seed)
    scorer = Scorer(Vsrn(Config.model_validate(VSRN)), Solo(), CPU, nullcontext, 1000)
    source = ModelEmbeddings(scorer, f"seed {seed}", "off")
    return Job(Solo(), CPU, folder, settings, source, index.owner, index, lambda _: None)


def given(folder: Path, settings: Settings = ASKED) -> Job:
    """A job of embeddings that lie in the very folder of the lists, called as kept ones are."""
    folder.mkdir(exist_ok=True)
    for name, rows in zip(("img_embs", "cap_embs"), embeddings(20, 60), strict=True):
        np.save(folder / f"{name}_train.npy", rows.numpy(), allow_pickle=False)
    source = GivenEmbeddings(folder / "img_embs_train.npy", folder / "cap_embs_train.npy")
    return Job(Solo(), CPU, folder, settings, source, owners(20, 60), None, lambda _: None)


def content(folder: Path, but: str = "") -> dict[str, bytes]:
    """Of all files of a folder that holds no others; `but` may lie there."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != but}


def failing(patch: pytest.MonkeyPatch, after: int, error: Callable[[], BaseException], *names: str) -> list[int]:
    """Let the file operation number `after` fail, and all that come later; returns where those are counted."""
    count = [0]

    def counted(real: Any) -> Any:
        def operation(*args: Any, **kinds: Any) -> Any:
            count[0] += 1
            if count[0] > after:
                raise error()
            return real(*args, **kinds)

        return operation

    for name in names:
        owner = Path if hasattr(Path, name) else shutil
        patch.setattr(owner, name, counted(getattr(owner, name)))
    return count


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_at_any_file_operation_leaves_what_a_second_start_makes_right(
    replaced: bool, index: PairIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder, and in one whose lists of other weights are overwritten."""
    encoding(index, tmp_path / "straight").run()
    expected = content(tmp_path / "straight")
    assert sorted(expected) == ["cap_embs_train.npy", "i2t_train.npy", "img_embs_train.npy", MANIFEST,
                                "scores_i2t_train.npy", "scores_t2i_train.npy", "t2i_train.npy"]
    encoding(index, tmp_path / "before", seed=1).run()
    asked, ends = replace(ASKED, overwrite=replaced), 0
    for after in range(200):
        folder = tmp_path / f"after-{after}"
        if replaced:
            shutil.copytree(tmp_path / "before", folder)
        with monkeypatch.context() as patch:
            failing(patch, after, Killed, "replace", "unlink", "rmtree")
            try:
                encoding(index, folder, asked).run()
                ends += 1
            except Killed:
                pass
        manifest = folder / MANIFEST
        if manifest.exists() and manifest.read_bytes() == expected[MANIFEST]:
            assert content(folder, UNFINISHED) == expected
        encoding(index, folder, asked).run()
        assert content(folder) == expected, f"killed after {after} operations"
        if ends:
            break
    assert after > 10, "the job was killed in all its parts"


def test_a_disk_that_is_full_at_any_file_operation_is_one_line(
    index: PairIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        operations = failing(patch, 10**9, full, "replace")
        encoding(index, tmp_path / "whole").run()
    for after in range(operations[0]):
        with monkeypatch.context() as patch:
            failing(patch, after, full, "replace")
            with pytest.raises(Failure, match=r"cannot be written \(No space left on device\); free space"):
                encoding(index, tmp_path / "full").run()
        shutil.rmtree(tmp_path / "full")


def test_nothing_is_computed_again_once_all_is_made(
    index: PairIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("train.mining.output_folder.OutputFolder.publish", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            encoding(index, tmp_path / "lists").run()
    monkeypatch.setattr(Job, "_embeddings", lambda *_: pytest.fail("computed again"))
    encoding(index, tmp_path / "lists").run()
    assert (tmp_path / "lists" / MANIFEST).exists()
    assert not (tmp_path / "lists" / UNFINISHED).exists()


@pytest.mark.parametrize("other", [{"texts_per_image": 6}, {"score_margin": -9.0}, {"operands": "float16"}])
def test_lists_of_other_settings_stay(other: dict[str, Any], index: PairIndex, tmp_path: Path) -> None:
    encoding(index, tmp_path).run()
    before = content(tmp_path)
    told = r"holds lists of other weights or settings; mine into another folder \(--lists\), or replace them with --o"
    with pytest.raises(ConfigError, match=told):
        encoding(index, tmp_path, replace(ASKED, **other)).run()
    with pytest.raises(ConfigError, match=told):
        encoding(index, tmp_path, seed=1).run()
    encoding(index, tmp_path).run()
    assert content(tmp_path) == before


def test_lists_without_a_manifest_stay(tmp_path: Path) -> None:
    job = given(tmp_path)
    np.save(tmp_path / "t2i_train.npy", np.zeros((60, 3), np.int32))
    with pytest.raises(ConfigError, match="replace them with --overwrite"):
        job.run()
    assert not np.load(tmp_path / "t2i_train.npy").any()


def test_lists_of_another_name_stay_even_where_others_may_be_overwritten(tmp_path: Path) -> None:
    job = given(tmp_path, replace(ASKED, overwrite=True))
    np.save(tmp_path / "t2i_f30k.npy", np.zeros((60, 3), np.int32))
    with pytest.raises(ConfigError, match=r"holds t2i_f30k\.npy already; mine into another folder \(--lists\)"):
        job.run()


def test_overwriting_leaves_nothing_of_the_lists_before(index: PairIndex, tmp_path: Path) -> None:
    encoding(index, tmp_path, seed=1).run()
    plain = replace(ASKED, scores=False, keep_embeddings=False)
    encoding(index, tmp_path, replace(plain, overwrite=True)).run()
    encoding(index, tmp_path / "straight", plain).run()
    straight = content(tmp_path / "straight")
    shutil.rmtree(tmp_path / "straight")
    assert content(tmp_path) == straight


def test_given_embeddings_are_never_taken_for_kept_ones(index: PairIndex, tmp_path: Path) -> None:
    encoding(index, tmp_path).run()
    job = given(tmp_path, replace(ASKED, overwrite=True))
    before = content(tmp_path)
    job.run()
    after = content(tmp_path)
    assert before["i2t_train.npy"] != after["i2t_train.npy"]
    assert all(before[name] == after[name] for name in ("img_embs_train.npy", "cap_embs_train.npy"))


def test_a_list_that_is_gone_is_mined_again(tmp_path: Path) -> None:
    given(tmp_path).run()
    before = content(tmp_path)
    (tmp_path / "i2t_train.npy").unlink()
    given(tmp_path).run()
    assert content(tmp_path) == before


def test_an_unfinished_job_of_other_weights_is_dropped(
    index: PairIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_mine", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            encoding(index, tmp_path / "lists", seed=1).run()
    said: list[str] = []
    replace(encoding(index, tmp_path / "lists"), said=said.append).run()
    assert "an unfinished job of other weights or settings is dropped" in said[0]
    encoding(index, tmp_path / "straight").run()
    assert content(tmp_path / "lists") == content(tmp_path / "straight")
