from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from config import load
from config.assemble import resolve
from config.errors import ConfigError
from config.files import Reader
from config.kinds import Kinds
from config.leaves import flatten, merge

Write = Callable[..., Path]


def test_flags_beat_the_file_which_beats_what_it_extends_which_beats_the_defaults(
    kinds: Kinds, write: Write
) -> None:
    write("base.json", {"optim": {"warmup_steps": 1, "learning_rate": 1e-3, "weight_decay": 0.1}})
    path = write("run.json", {"extends": "base.json", "optim": {"warmup_steps": 2, "learning_rate": 2e-3}})
    optim = load(path, {"optim.warmup_steps": 3}, kinds).optim
    assert (optim.warmup_steps, optim.learning_rate, optim.weight_decay, optim.grad_norm) == (
        3,
        2e-3,
        0.1,
        2.0,
    )


def test_every_leaf_has_an_origin(kinds: Kinds, write: Write) -> None:
    base = write("base.json", {"optim": {"weight_decay": 0.1}})
    path = write("run.json", {"extends": "base.json", "data": {"max_bb": 50}})
    resolved = resolve(merge(Reader().read(path), flatten({"seed": 1}, "--seed")), kinds)
    assert resolved.origins.keys() == flatten(resolved.run.dump(), "").keys()
    told = {key: where for key, where in resolved.origins.items() if where != "default"}
    assert told == {"optim.weight_decay": str(base), "data.max_bb": str(path), "seed": "--seed"}


def test_a_partial_override_is_checked_against_the_chosen_matcher(kinds: Kinds) -> None:
    towers = {"matcher.name": "towers", "matcher.width": 8}
    run = load(None, {**towers, "matcher.part.depth": 3}, kinds)
    assert run.dump()["matcher"] == {"name": "towers", "width": 8, "optim": "own", "part": {"depth": 3}}
    with pytest.raises(ConfigError, match=r"matcher\.hidden_size .* is not a known key"):
        load(None, {**towers, "matcher.hidden_size": 64}, kinds)
    with pytest.raises(ConfigError, match=r"matcher\.width .* is not a known key"):
        load(None, {"matcher.width": 8}, kinds)


def test_another_matcher_leaves_the_fields_of_the_file_s_matcher_behind(kinds: Kinds, write: Write) -> None:
    path = write("run.json", {"matcher": {"name": "uniter", "hidden_size": 64}})
    assert load(path, {"matcher.name": "towers", "matcher.width": 2}, kinds).matcher.name == "towers"


def test_a_variable_that_a_flag_replaces_need_not_be_set(
    kinds: Kinds, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORES", raising=False)
    path = write("run.json", {"weights": {"checkpoint": "${STORES}/a.pt"}})
    with pytest.raises(ConfigError, match="STORES is not set"):
        load(path, {}, kinds)
    assert load(path, {"weights.checkpoint": "b.pt"}, kinds).weights.checkpoint == "b.pt"
