"""train/loop/claim.py: whose output folder it is, another run's, and a run that is given more updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError
from config.schema import Run
from tests.train.conftest import MakeRun, Pretended
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Solo
from train.loop.claim import Extension, claim, describe_differences, find_differences, find_extension


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def content(folder: Path) -> dict[str, bytes]:
    """What all files of a folder hold."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def with_checkpoint(folder: Path, step: int = 3) -> Path:
    return Checkpoints(folder, keep=2).write(Snapshot(step, {}, {}, {}))


def test_a_folder_is_claimed_before_anything_else_is_written(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(output={"output_dir": str(tmp_path / "a" / "out")})
    folder = claim(run, Solo())
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    kept = {name: part for name, part in run.dump().items() if name != "cluster"}
    del kept["output"]["extend"]
    assert json.loads((folder / "config.json").read_text()) == kept, "how it lives with its ranks is not what it is"
    assert claim(run, Solo()) == folder


def test_another_runs_folder_is_refused_with_all_that_differs_and_left_alone(make_run: MakeRun, out: Path) -> None:
    output = {"output_dir": str(out)}
    claim(make_run(output=output), Solo())
    before = content(out)
    for extend in (False, True):
        other = make_run(seed=7, output=output | {"extend": extend}, optim={"learning_rate": 0.5, "num_train_steps": 8})
        for look in (lambda run: claim(run, Solo()), find_extension):
            with pytest.raises(ConfigError) as refused:
                look(other)
            assert str(refused.value).startswith(
                f"output_dir={out}: holds a run with other settings (seed was 42, now 7; optim.learning_rate was "
                "0.001, now 0.5; optim.num_train_steps was 6, now 8); "
            )
            assert str(refused.value).endswith("name another folder")
            assert ("which alone --extend allows" in str(refused.value)) == extend
    assert content(out) == before


def test_how_to_go_on_names_the_newest_checkpoint_by_its_own_path(make_run: MakeRun, out: Path) -> None:
    output = {"output_dir": str(out)}
    claim(make_run(output=output), Solo())
    with_checkpoint(out, 3)
    newest = with_checkpoint(out, 5)
    with pytest.raises(ConfigError) as refused:
        claim(make_run(output=output, optim={"learning_rate": 0.5}), Solo())
    assert str(refused.value).endswith(f"name another folder, with --resume {newest} to go on from its last checkpoint")


def test_settings_that_do_not_decide_the_result_may_change(make_run: MakeRun, out: Path) -> None:
    output = {"output_dir": str(out)}
    claim(make_run(output=output), Solo())
    claim(make_run(output=output | {"log_steps": 3, "keep": 5}, data={"n_workers": 2}), Solo())


def test_resume_never_refuses_checkpoints_of_the_same_run(make_run: MakeRun, out: Path) -> None:
    run = make_run(output={"output_dir": str(out), "resume": "never"})
    folder = claim(run, Solo())
    assert claim(run, Solo()) == folder
    (folder / "ckpt").mkdir()
    with pytest.raises(ConfigError, match="holds this run's checkpoints"):
        claim(run, Solo())


def test_a_folder_must_be_named_and_possible(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="output_dir is not set"):
        claim(make_run(), Solo())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"/file: cannot be made \(Not a directory\)"):
        find_extension(make_run(output={"output_dir": str(tmp_path / "file")}))
    with pytest.raises(ConfigError, match=r"file/out: cannot be made \(Not a directory\)"):
        claim(make_run(output={"output_dir": str(tmp_path / "file" / "out")}), Solo())


def longer(make_run: MakeRun, out: Path, steps: int, extend: bool = True, **optim: Any) -> Run:
    return make_run(output={"output_dir": str(out), "extend": extend}, optim={"num_train_steps": steps, **optim})


def test_more_updates_are_refused_with_the_flag_that_allows_them(make_run: MakeRun, out: Path) -> None:
    claim(longer(make_run, out, 6, extend=False), Solo())
    before = content(out)
    with pytest.raises(ConfigError, match=r"was 6, now 9\); give --extend to let it go on here to 9 updates"):
        claim(longer(make_run, out, 9, extend=False), Solo())
    with pytest.raises(ConfigError, match=r"was 6, now 5\); leave out all but a larger num_train_steps"):
        claim(longer(make_run, out, 5), Solo())
    assert content(out) == before


def test_an_extension_is_kept_in_the_config_each_time(make_run: MakeRun, out: Path) -> None:
    first = claim(longer(make_run, out, 6, extend=False), Solo())
    with_checkpoint(out, 3)
    for steps in (9, 12):
        run = longer(make_run, out, steps)
        assert find_extension(run) is not None
        assert claim(run, Solo()) == first
        assert find_extension(run) is None, "the same command again"
        assert claim(longer(make_run, out, steps, extend=False), Solo()) == first
    kept = json.loads((out / "config.json").read_text())
    assert kept["optim"]["num_train_steps"] == 12
    assert kept["_note"]["extended"] == [{"from": 6, "to": 9, "step": 3}, {"from": 9, "to": 12, "step": 3}]
    assert "extend" not in kept["output"]
    with pytest.raises(ConfigError, match="num_train_steps was 12, now 6"):
        claim(longer(make_run, out, 6, extend=False), Solo())


def test_a_run_that_is_not_there_cannot_be_extended(make_run: MakeRun, out: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run; name the folder of one, or leave --extend out"):
        claim(longer(make_run, out, 9), Solo())
    assert not out.exists()


def test_ranks_agree_whether_they_look_before_rank_0_has_written_or_after(make_run: MakeRun, out: Path) -> None:
    claim(longer(make_run, out, 6, extend=False), Solo())
    run = longer(make_run, out, 9)
    for rank in (1, 0, 1):
        assert claim(run, Pretended(rank, 2)) == out
    before = content(out)
    for rank in (1, 0):
        with pytest.raises(ConfigError, match="holds a run with other settings"):
            claim(longer(make_run, out, 9, learning_rate=0.5), Pretended(rank, 2))
    assert content(out) == before


def test_an_extension_tells_the_schedule_from_there_on(make_run: MakeRun) -> None:
    before, after = (make_run(optim={"num_train_steps": steps, "warmup_steps": 0}).optim for steps in (5, 10))
    assert str(Extension(before, after, 5)) == (
        "extended from 5 to 10 updates at step 5: learning rate, ramps and annealing go on as in a run of 10 (rate of "
        "the next update 0.0004, not 1e-08)"
    )


def test_of_another_matcher_only_the_name_differs(make_run: MakeRun) -> None:
    ours = make_run(objective={"name": "infonce"}, data={"val_txt_db": "", "val_img_db": ""})
    changed = find_differences(make_run(), ours)
    assert changed["objective.name"] == ("hinge", "infonce")
    assert [*changed] == ["data.val_txt_db", "data.val_img_db", "objective.name"]
    assert describe_differences(changed).endswith(".db; objective.name was hinge, now infonce") is False
    assert "now not set; objective.name was hinge, now infonce" in describe_differences(changed)
