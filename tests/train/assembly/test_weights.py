"""train/assembly/weights.py: weights are a run's own, whole or plainly a part, and what came of them is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from config.assemble import resolve
from config.errors import DataError
from config.leaves import flatten
from config.schema import Run
from model.matcher import build, find
from tests.items import items_config
from tests.samples import lively
from train.assembly.kinds import KINDS
from train.assembly.recipe import build_parts
from train.assembly.weights import check_resumable, find_differences, load_for_evaluation, load_initial_weights
from train.checkpointing.checkpoint import Checkpoints, read_weights
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Solo

SYSTEMS = ("vsrn", "bfan")
MakeItems = Callable[..., Run]


@pytest.fixture
def run_of(stores: tuple[Path, Path]) -> MakeItems:
    """`run_of("bfan", {...}, optim={...})`: a run of VSRN or BFAN in sizes that both have, on the tiny stores."""

    def made(name: str = "vsrn", matcher: dict[str, Any] | None = None, **sections: Any) -> Run:
        tree = items_config(stores, **sections)
        known = find(name).settings.model_fields
        sizes = {key: value for key, value in tree["matcher"].items() if key in known}
        tree["matcher"] = sizes | {"name": name} | (matcher or {})
        return resolve(flatten(tree, "test"), KINDS).run

    return made


def saved(run: Run, folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    """A checkpoint folder that a run wrote; `state` in place of its weights."""
    weights = lively(build(run.matcher)).state_dict() if state is None else state
    facts = run.dump() | {"_note": {"vocab_hash": "f" * 64}}
    return Checkpoints(folder, 1).write(Snapshot.of(1, weights, {}, facts))


@pytest.mark.parametrize("how", ["folder", "file of it", "bare file"])
@pytest.mark.parametrize(("ours", "theirs"), [SYSTEMS, SYSTEMS[::-1]])
def test_weights_of_another_matcher_are_measured_by_nobody(
    ours: str, theirs: str, how: str, run_of: MakeItems, tmp_path: Path
) -> None:
    """Their names fit in part, and so do the shapes here."""
    folder = saved(run_of(theirs), tmp_path / "theirs")
    path, told = folder, rf"weights of matcher {theirs}, and this run's is {ours}"
    if how == "file of it":
        path = folder / "model.safetensors"
    elif how == "bare file":
        path, told = tmp_path / "bare.safetensors", rf"tensors .*this {ours}"
        save_file(build(run_of(theirs).matcher).state_dict(), path)
    matcher = build(run_of(ours).matcher)
    with pytest.raises(DataError, match=told) as error:
        load_for_evaluation(matcher, run_of(ours), path)
    assert str(path) in str(error.value)
    with pytest.raises(DataError, match=told):
        load_initial_weights(matcher, run_of(ours, weights={"checkpoint": str(path)}))


def test_a_missing_tensor_is_told_with_the_file(run_of: MakeItems, tmp_path: Path) -> None:
    run = run_of()
    state = build(run.matcher).state_dict()
    del state["region_rnn.bias_hh_l0"]
    folder = saved(run, tmp_path, state)
    for act in (lambda: load_for_evaluation(build(run.matcher), run, folder),
                lambda: build_parts(run, Solo(), str(folder))):  # fmt: skip
        with pytest.raises(DataError, match=rf"{folder}: lacks 1 tensor of this vsrn \(region_rnn\.bias_hh_l0\)"):
            act()


def test_whole_weights_say_nothing(run_of: MakeItems, tmp_path: Path) -> None:
    run = run_of()
    assert load_for_evaluation(build(run.matcher), run, saved(run, tmp_path)) == ("f" * 64, (), 1.0)


def test_settings_that_shapes_do_not_tell_are_told(run_of: MakeItems, tmp_path: Path) -> None:
    folder = saved(run_of("bfan", {"focal_type": "prob", "lambda_softmax": 9.0}), tmp_path)
    run = run_of("bfan")
    assert load_for_evaluation(build(run.matcher), run, folder).notes == (
        f"{folder}: was trained with other settings than it is measured with: focal_type prob (here equal), "
        "lambda_softmax 9.0 (here 20.0)",)  # fmt: skip


def test_settings_of_training_alone_do_not_differ() -> None:
    there = {"name": "laps", "max_word": 90, "caption_weight": 1.0, "text": {"hidden_dropout_prob": 0.1, "size": 2}}
    here = {"name": "laps", "max_word": 50, "caption_weight": 0.0, "text": {"hidden_dropout_prob": 0.0, "size": 3}}
    assert find_differences(there, here) == ["max_word 90 (here 50)", "text.size 2 (here 3)"]


def test_a_start_from_a_part_tells_what_came(run_of: MakeItems, tmp_path: Path) -> None:
    run = run_of(matcher={"caption_weight": 0.0})
    folder = saved(run, tmp_path)
    whole = run_of(weights={"checkpoint": str(folder)})
    parts = build_parts(whole, Solo())
    total = sum(tensor.numel() for tensor in parts.matcher.state_dict().values())
    came = sum(tensor.numel() for tensor in build(run.matcher).state_dict().values())
    (note,) = parts.notes
    assert note.startswith(f"weights.checkpoint={folder}: ")
    assert f"{100 * came / total:.4g} % of the model's parameters, came from it; initialised: caption.* (" in note
    assert parts.vocab_hash == "f" * 64


def test_half_a_part_is_no_start_unless_that_is_allowed(run_of: MakeItems, tmp_path: Path) -> None:
    run = run_of()
    state = build(run.matcher).state_dict()
    del state["graph.2.phi.weight"]
    folder = saved(run, tmp_path, state)
    with pytest.raises(DataError, match=r"lacks 1 tensor .*\(graph\.2\.phi\.weight\).*--strict_checkpoint false"):
        build_parts(run_of(weights={"checkpoint": str(folder)}), Solo())
    allowed = build_parts(run_of(weights={"checkpoint": str(folder), "strict_checkpoint": False}), Solo())
    assert "initialised: graph.* (1)" in allowed.notes[0]


def test_another_matchers_weights_are_a_start_where_that_is_allowed(run_of: MakeItems, tmp_path: Path) -> None:
    folder = saved(run_of("bfan"), tmp_path)
    run = run_of(weights={"checkpoint": str(folder), "strict_checkpoint": False})
    started = build_parts(run, Solo()).matcher.state_dict()
    assert torch.equal(started["words.weight"], read_weights(folder)["words.weight"])


@pytest.mark.parametrize(("changes", "told"), [
    ({"name": "bfan"}, "weights of matcher vsrn, and this run's is bfan"),
    ({"optim": {"optim": "adamax"}}, r"optimizer was set up otherwise: optim adam \(here adamax\); .*--checkpoint"),
    ({"optim": {"rate_factors": [["words", 0.1]]}}, r"rate_factors \[\] \(here \[\['words', 0\.1\]\]\)"),
])  # fmt: skip
def test_a_run_goes_on_only_from_its_like(
    changes: dict[str, Any], told: str, run_of: MakeItems, tmp_path: Path
) -> None:
    folder = saved(run_of(), tmp_path)
    assert check_resumable(folder, run_of()) == "f" * 64
    with pytest.raises(DataError, match=rf"resume={folder}: .*{told}"):
        build_parts(run_of(**changes), Solo(), resumed=folder)


def test_a_run_that_goes_on_does_not_ask_for_what_it_began_with(run_of: MakeItems, tmp_path: Path) -> None:
    run = run_of(weights={"checkpoint": "/gone/model.pt"})
    folder = saved(run, tmp_path)
    assert build_parts(run, Solo(), resumed=folder).vocab_hash == "f" * 64
