"""The page of settings has every leaf of the schema, with its flag, default and meaning."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import Field, create_model

from config.schema import Run
from config.sections import Section
from model.matcher import find
from model.objective import find_objective
from scripts.manual.programs import parser_of
from scripts.manual.settings import configs_page, names, settings_page, values
from tests.contract.conftest import with_a_subclass_of
from tests.support import ROOT


@pytest.fixture(scope="module")
def page() -> str:
    return settings_page()


def expected() -> list[tuple[str, str]]:
    """Each leaf's dotted key and its meaning, read from the models themselves."""
    found = [("seed", Run.model_fields["seed"].description or "")]
    sections = [(name, field.annotation) for name, field in Run.model_fields.items()
                if name not in ("seed", "matcher", "objective")]
    sections += [("matcher", find(name).settings) for name in with_a_subclass_of("Matcher", "model")]
    sections += [("objective", find_objective(name).settings)
                 for name in with_a_subclass_of("Objective", "model/objective")]
    for section, kind in sections:
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        found += [(f"{section}.{leaf}", field.description or "") for leaf, field in kind.model_fields.items()
                  if leaf != "name"]
    return found


def row(page: str, key: str) -> str:
    return next((line for line in page.splitlines() if line.startswith((f"| `{key}` |", f"| `{key}` † |"))), "")


def test_every_leaf_is_there_with_its_meaning(page: str) -> None:
    lines = page.replace("\\", "").splitlines()
    assert len(expected()) > 100
    for key, meaning in expected():
        rows = [line for line in lines if line.startswith(f"| `{key}` ")]
        assert rows, f"{key} is not in the reference"
        assert meaning, f"{key} has no description; write one below the field"
        assert any(" ".join(meaning.split()) in line for line in rows), f"{key}: {meaning}"


def test_every_kind_has_a_heading(page: str) -> None:
    for kind in ("matcher", "objective"):
        assert all(f"\n## {kind}: {name}\n" in page for name in names(kind))
    assert set(names("matcher")) == set(with_a_subclass_of("Matcher", "model"))
    assert set(names("objective")) == set(with_a_subclass_of("Objective", "model/objective"))


def test_a_leaf_says_its_range_its_default_and_whether_a_run_may_go_on_with_another(page: str) -> None:
    assert row(page, "optim.decay_factor").split(" | ")[1:3] == ["number > 0, ≤ 1", "`0.1`"]
    assert row(page, "data.n_workers").startswith("| `data.n_workers` † |")
    assert row(page, "optim.learning_rate").startswith("| `optim.learning_rate` |")


def test_a_leaf_without_a_flag_says_how_it_is_reached(page: str) -> None:
    known = {option for action in parser_of("train/itm.py")._actions for option in action.option_strings}
    assert "`--set matcher.vision=VALUE`" in row(page, "matcher.vision")
    for line in page.splitlines():
        if line.startswith("| `") and line[3:].partition(".")[0] not in ("matcher", "objective", "seed` "):
            leaf = line[3:].partition("`")[0].rpartition(".")[2]
            assert ("--set" in line) == (f"--{leaf}" not in known), line


@pytest.mark.parametrize(("kind", "told"), [
    (int, "integer"),
    (bool, "true, false"),
    (Literal["a", "b"], "`a`, `b`"),
    (Annotated[float, Field(ge=0, lt=1)], "number ≥ 0, < 1"),
    (tuple[str, ...], "list of: text"),
    (tuple[float, float], "number; number"),
    (int | None, "integer or null"),
])  # fmt: skip
def test_values_in_words(kind: object, told: str) -> None:
    made = create_model("Made", leaf=(kind, ...))
    assert values(made.model_json_schema()["properties"]["leaf"]) == told


def test_every_config_file_is_there_with_its_kinds() -> None:
    page = configs_page()
    for path in (ROOT / "config").glob("*.json"):
        line = row(page, f"config/{path.name}")
        assert line, f"{path.name} is not in the reference"
        name = json.loads(path.read_text("utf-8")).get("matcher", {}).get("name")
        assert name is None or f"| `{name}` |" in line
    assert "| `train_batch_size` | `optim.train_batch_size` |" in page
