from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import load
from config.errors import ConfigError
from config.files import Reader
from config.kinds import Kinds
from config.leaves import flatten
from config.legacy import MEANING, ONLY, WITHOUT_EFFECT, is_flat

Write = Callable[..., Path]

# A published key, a value that is not the default, and what it sets.
PUBLISHED: list[tuple[str, Any, dict[str, Any]]] = [
    ("train_txt_dbs", ["a"], {"data.train_txt_dbs": ["a"]}),
    ("train_txt_dbs", "a", {"data.train_txt_dbs": ["a"]}),
    ("train_img_dbs", ["a", "b"], {"data.train_img_dbs": ["a", "b"]}),
    ("train_txt_db", "a", {"data.train_txt_dbs": ["a"]}),
    ("train_img_db", "a", {"data.train_img_dbs": ["a"]}),
    ("val_txt_db", "a", {"data.val_txt_db": "a"}),
    ("val_img_db", "a", {"data.val_img_db": "a"}),
    ("test_txt_db", "a", {"data.test_txt_db": "a"}),
    ("test_img_db", "a", {"data.test_img_db": "a"}),
    ("txt_db", "a", {"data.test_txt_db": "a"}),
    ("img_db", "a", {"data.test_img_db": "a"}),
    ("compressed_db", True, {"data.compressed_db": True}),
    ("max_txt_len", 30, {"data.max_txt_len": 30}),
    ("conf_th", -1, {"data.conf_th": -1}),
    ("max_bb", 50, {"data.max_bb": 50}),
    ("min_bb", 5, {"data.min_bb": 5}),
    ("num_bb", 20, {"data.num_bb": 20}),
    ("n_workers", 2, {"data.n_workers": 2}),
    ("pin_mem", False, {"data.pin_mem": False}),
    ("negative_size", 63, {"negatives.negative_size": 63}),
    ("hard_neg_size", 15, {"negatives.hard_neg_size": 15}),
    ("optim", "adamax", {"optim.optim": "adamax"}),
    ("learning_rate", 3e-5, {"optim.learning_rate": 3e-5}),
    ("betas", [0.8, 0.9], {"optim.betas": [0.8, 0.9]}),
    ("weight_decay", 0.1, {"optim.weight_decay": 0.1}),
    ("grad_norm", -1, {"optim.grad_norm": -1}),
    ("warmup_steps", 5, {"optim.warmup_steps": 5}),
    ("num_train_steps", 50, {"optim.num_train_steps": 50}),
    ("train_batch_size", 4, {"optim.train_batch_size": 4}),
    ("fp16", True, {"optim.precision": "fp16"}),
    ("fp16", False, {"optim.precision": "off"}),
    ("valid_steps", 5, {"eval.valid_steps": 5}),
    ("full_val", False, {"eval.full_val": False}),
    ("inf_minibatch_size", 40, {"eval.inf_minibatch_size": 40}),
    ("output_dir", "a", {"output.output_dir": "a"}),
    ("save_steps", 5, {"output.save_steps": 5}),
    ("checkpoint", "a.pt", {"weights.checkpoint": "a.pt"}),
    ("checkpoint", None, {"weights.checkpoint": ""}),
    ("dropout", 0.2, {"matcher.hidden_dropout_prob": 0.2, "matcher.attention_probs_dropout_prob": 0.2}),
    ("margin", 0.3, {"objective.margin": 0.3}),
    ("IAIS", "distributed", {"objective.IAIS": "distributed"}),
    ("IAIS", False, {"objective.IAIS": False}),
    ("IAIS", "off", {"objective.IAIS": "off"}),
]


@pytest.mark.parametrize(("key", "value", "meaning"), PUBLISHED)
def test_a_published_key_keeps_its_meaning(
    key: str, value: Any, meaning: dict[str, Any], write: Write
) -> None:
    read = Reader().read(write("run.json", {key: value}))
    assert {name: given.value for name, given in read.items()} == meaning


def test_every_published_key_has_an_example_here() -> None:
    # The seed is the same in both forms; the model config is a file.
    # tsa means something only beside IAIS.
    assert MEANING.keys() == {key for key, _, _ in PUBLISHED} | {"seed", "model_config", "tsa"}
    assert not MEANING.keys() & (WITHOUT_EFFECT.keys() | ONLY.keys())


def test_every_meaning_is_a_leaf_of_a_run(kinds: Kinds) -> None:
    leaves = flatten(load(None, {"objective.IAIS": "singular"}, kinds).dump(), "").keys()
    targets = {key for meaning in MEANING.values() for key in meaning.keys}
    assert targets - leaves == {"matcher.extends"}


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_a_key_without_effect_is_accepted_with_one_reason(key: str, write: Write) -> None:
    reader = Reader()
    assert reader.read(write("run.json", {key: 3})) == {}
    assert len(reader.notes) == 1
    assert f"run.json: {key} has no effect: " in reader.notes[0]


@pytest.mark.parametrize(
    ("key", "fine", "refused"),
    [
        ("decay", "linear", "vqa"),
        ("gradient_accumulation_steps", 1, 4),
        ("lr_mul", 1.0, 10.0),
        ("mlp", 1, 2),
    ],
)
def test_a_key_that_cannot_be_honoured_is_taken_where_it_changes_nothing(
    key: str, fine: Any, refused: Any, write: Write
) -> None:
    assert Reader().read(write("run.json", {key: fine})) == {}
    with pytest.raises(ConfigError, match=f"{key} = .* cannot be honoured: "):
        Reader().read(write("run.json", {key: refused}))


def test_iais_chooses_its_objective_and_keeps_the_margin(write: Write, kinds: Kinds) -> None:
    run = load(write("run.json", {"IAIS": "singular", "margin": 0.3, "tsa": "log"}), {}, kinds)
    expected = {"name": "iais", "IAIS": "singular", "margin": 0.3, "tsa": "log"}
    assert run.dump()["objective"] == expected


@pytest.mark.parametrize("beside", [{}, {"IAIS": None}, {"IAIS": False}, {"IAIS": "off"}])
def test_a_schedule_without_iais_has_no_effect_and_says_so(beside: dict[str, Any], write: Write, kinds: Kinds) -> None:
    path = write("run.json", {"tsa": "exp", "margin": 0.2, **beside})
    assert load(path, {}, kinds).dump()["objective"] == {"name": "hinge", "margin": 0.2}
    reader = Reader()
    reader.read(path)
    assert reader.notes == [f"{path}: tsa has no effect: IAIS is off in this file"]


@pytest.mark.parametrize("value", ["off", False, "cosine"])
def test_a_schedule_that_is_none_is_refused(value: Any, write: Write, kinds: Kinds) -> None:
    with pytest.raises(ConfigError, match=r"objective\.tsa = .* should be"):
        load(write("run.json", {"IAIS": "singular", "tsa": value}), {}, kinds)


def test_an_unknown_key_is_refused_with_the_nearest(write: Write) -> None:
    with pytest.raises(ConfigError, match="hard_neg_sise is not a published key: did you mean hard_neg_size"):
        Reader().read(write("run.json", {"learning_rate": 1e-5, "hard_neg_sise": 31}))
    with pytest.raises(ConfigError, match=r"lr is not a published key: .* here it is learning_rate"):
        Reader().read(write("run.json", {"margin": 0.2, "lr": 1e-5}))


@pytest.mark.parametrize("written", ["{folder}/models/small.json", "models/small.json", "else/run.json"])
def test_the_model_config_is_inlined(
    written: str, kinds: Kinds, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("models/small.json", {"hidden_size": 64, "hidden_dropout_prob": 0.3})
    write("runs/run.json", {"hidden_size": 64, "hidden_dropout_prob": 0.3})
    monkeypatch.chdir(tmp_path)
    # Named in full, from the folder the program starts in, and by a name that lies beside the config file.
    path = write("runs/flat.json", {"model_config": written.format(folder=tmp_path), "dropout": 0.1})
    matcher = load(path, {}, kinds).dump()["matcher"]
    assert (matcher["hidden_size"], matcher["hidden_dropout_prob"]) == (64, 0.1)


def test_a_missing_model_config_is_named(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.json: there is no such config file"):
        Reader().read(write("run.json", {"model_config": "nothing.json"}))


@pytest.mark.parametrize(
    ("tree", "flat"),
    [
        ({"learning_rate": 1e-5}, True),
        ({"optim": "adamw"}, True),
        ({"_note": "x", "extends": "y", "IAIS": False}, True),
        ({"optim": {"learning_rate": 1e-5}}, False),
        ({"optim": {}, "learning_rate": 1e-5}, False),
        ({"seed": 1}, False),
        ({"extends": "base.json"}, False),
        ({}, False),
    ],
)
def test_the_form_is_told_by_the_keys(tree: dict[str, Any], flat: bool) -> None:
    assert is_flat(tree) is flat


def test_a_house_file_may_extend_a_published_one(kinds: Kinds, write: Write) -> None:
    write("flat.json", {"learning_rate": 1e-4, "fp16": True})
    run = load(write("run.json", {"extends": "flat.json", "optim": {"precision": "bf16"}}), {}, kinds)
    assert (run.optim.learning_rate, run.optim.precision) == (1e-4, "bf16")


def test_a_wrong_value_is_refused_in_the_new_terms(kinds: Kinds, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"optim\.precision = 'false' .*run\.json"):
        load(write("run.json", {"fp16": "false"}), {}, kinds)
