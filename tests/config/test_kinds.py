from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import load
from config.errors import ConfigError
from config.kinds import Kinds, comes_with, refuse_contradiction
from config.leaves import Given

Write = Callable[..., Path]
ON = {"name": "iais", "margin": 0.3, "IAIS": "singular", "tsa": "log"}


def objective(kinds: Kinds, path: Path, **flags: Any) -> dict[str, Any]:
    return dict(load(path, {f"objective.{name}": value for name, value in flags.items()}, kinds).dump()["objective"])


@pytest.mark.parametrize("written", [{"margin": 0.3}, {"name": "hinge", "margin": 0.3}, {}])
def test_it_chooses_its_kind_and_keeps_what_both_know(written: dict[str, Any], kinds: Kinds, write: Write) -> None:
    found = objective(kinds, write("run.json", {"objective": written}), IAIS="distributed")
    assert found == {"name": "iais", "margin": written.get("margin", 0.2), "IAIS": "distributed", "tsa": "exp"}


@pytest.mark.parametrize("off", ["off", False, None])
def test_off_is_the_default_kind_to_the_last_digit_of_its_hash(off: Any, kinds: Kinds, write: Write) -> None:
    plain = load(write("plain.json", {"objective": {"margin": 0.3}}), {}, kinds)
    path = write("run.json", {"objective": ON})
    assert objective(kinds, path, IAIS=off) == {"name": "hinge", "margin": 0.3}
    assert load(path, {"objective.IAIS": off}, kinds).hash() == plain.hash()


@pytest.mark.parametrize("off", ["off", False, None])
def test_a_flat_file_that_says_off_is_off_whatever_it_extends(off: Any, kinds: Kinds, write: Write) -> None:
    write("below.json", {"objective": ON})
    assert objective(kinds, write("flat.json", {"extends": "below.json", "margin": 0.1, "IAIS": off})) == {
        "name": "hinge", "margin": 0.1}


def test_off_hides_no_misspelt_key(kinds: Kinds, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"objective\.margni"):
        objective(kinds, write("run.json", {"objective": ON | {"margni": 1}}), IAIS="off")


def test_one_place_that_says_both_is_refused(kinds: Kinds, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"objective\.name = 'hinge' .*objective\.IAIS = 'singular' .*contradict"):
        load(write("run.json", {"objective": {"name": "hinge", "IAIS": "singular"}}), {}, kinds)
    flags = {"objective.name": Given("hinge", "--objective"), "objective.IAIS": Given("singular", "--IAIS")}
    with pytest.raises(ConfigError, match="contradict each other: leave one of them out"):
        refuse_contradiction(flags)
    refuse_contradiction(flags | {"objective.IAIS": Given("off", "--IAIS")})
    refuse_contradiction(flags | {"objective.name": Given("hinge", "run.json")})


def test_another_kind_does_not_know_it(kinds: Kinds, write: Write) -> None:
    with pytest.raises(ConfigError, match="tripel"):
        objective(kinds, write("run.json", {"objective": {"name": "tripel", "IAIS": "singular"}}))


def test_flags_of_an_implied_kind_are_told_where_they_belong(kinds: Kinds) -> None:
    assert comes_with(kinds)["tsa"] == "--tsa comes with --IAIS; give that too"
