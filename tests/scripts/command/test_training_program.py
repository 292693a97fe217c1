"""Every objective has its program, and every config of the project can be trained by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import load
from config.schema import Run
from model.objective import find_objective
from model.objective.triplet import Triplet
from scripts.command.training_program import PROGRAMS, training_program
from tests.support import ROOT, config_of, write_config
from train.assembly.kinds import KINDS


def made(folder: Path, **objective: str) -> Run:
    return load(write_config(folder / "run.json", config_of((Path("t"), Path("i")), objective=objective)), {}, KINDS)


@pytest.mark.parametrize("objective", sorted(
    path.stem for path in (ROOT / "model" / "objective").glob("*.py") if path.stem != "__init__"))
def test_each_objective_has_a_program(objective: str, tmp_path: Path) -> None:
    program = training_program(made(tmp_path, name=objective))
    assert program == ("train/itm_hn.py" if objective in ("hinge", "iais", "infonce") else "train/itm.py")
    assert (ROOT / program).exists()


def test_an_objective_that_says_not_what_it_compares_is_our_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path, name="triplet")
    monkeypatch.setattr(Triplet, "needs", frozenset(PROGRAMS))
    assert find_objective("triplet") is Triplet
    with pytest.raises(ValueError, match=r"objective triplet: needs \['items', 'pools'\], which no one program offers"):
        training_program(run)
