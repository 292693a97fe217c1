from __future__ import annotations

import pytest

from config.assemble import COMMON
from config.command.flags import add_commands, build_parser
from config.foreign_names import FOREIGN_NAMES, suggest
from config.kinds import Kinds

LEAVES = {leaf for kind in COMMON.values() for leaf in kind.model_fields}


def own_flags(kinds: Kinds) -> set[str]:
    """The flags that are no leaf of a common section."""
    parser = build_parser("program", "", kinds)
    add_commands(parser, "1")
    return {option.lstrip("-").replace("-", "_") for option in parser._option_string_actions} | {"seed"}


def test_what_a_name_is_here_exists(kinds: Kinds) -> None:
    names = {told for told in FOREIGN_NAMES.values() if told.isidentifier()}
    assert names - LEAVES - own_flags(kinds) == set()


def test_no_name_of_others_is_one_of_ours(kinds: Kinds) -> None:
    assert set(FOREIGN_NAMES) & (LEAVES | own_flags(kinds)) == set()


def test_settings_that_sentences_speak_of_exist() -> None:
    known = LEAVES | {"ramp", "hardest_from", "recompute_layers", "build_txtdb", "build_imgdb", "itm_hn"}
    words = {
        word.strip("();:,.") for told in FOREIGN_NAMES.values() for word in told.split() if not told.isidentifier()
    }
    spoken = {word for word in words if "_" in word and word.replace("_", "").isalpha() and word.islower()}
    assert spoken - known == set()


@pytest.mark.parametrize("name", [
    "lr", "epochs", "num_epochs", "batch_size", "bs", "workers", "num_workers", "wd", "gpu", "gpus", "amp", "bf16",
    "output", "out_dir", "resume_from_checkpoint", "pretrained", "data_path", "logger_name", "model_name", "val_step",
    "log_step", "grad_clip", "max_violation", "lr_update", "np",
])  # fmt: skip
def test_habits_of_usual_trainers_are_answered(name: str) -> None:
    spelled = {leaf: f"--{leaf}" for leaf in LEAVES}
    assert str(suggest(name, spelled)).startswith("a name of other trainers: ")


def test_a_name_is_answered_with_the_setting_as_it_is_to_be_written() -> None:
    assert suggest("LR", {"learning_rate": "--learning_rate"}) == "a name of other trainers: here it is --learning_rate"
    assert suggest("lr", {}) is None
    assert suggest("learning_rate", {"learning_rate": "x"}) is None


def test_epochs_are_answered_with_how_to_count_updates() -> None:
    assert (
        "num_train_steps = epochs x captions of the training stores / anchors of one update" in FOREIGN_NAMES["epochs"]
    )
