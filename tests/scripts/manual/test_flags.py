"""The page of programs has every flag that stands in a source, and every target of make."""

from __future__ import annotations

import ast
import re
from argparse import ArgumentParser

import pytest

from scripts.manual.flags import option, own_actions, programs_page, targets, with_parts
from scripts.manual.programs import program_paths
from tests.support import ROOT


@pytest.fixture(scope="module")
def page() -> str:
    return programs_page()


def flags_in_sources() -> set[str]:
    """First arguments of calls such as `add_argument("--flag")` and `add("--flag")`, of all programs' sources."""
    found = set()
    for path in [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "train").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and re.search(r"(^|\.)add(_argument)?$", ast.unparse(node.func)):
                found |= {word.value for word in node.args if isinstance(word, ast.Constant)
                          and isinstance(word.value, str) and word.value.startswith("--")}
    return found


def test_every_flag_of_every_source_is_there(page: str) -> None:
    flags = flags_in_sources()
    assert len(flags) > 80
    assert {flag for flag in flags if f"`{flag}`" not in page and f", {flag}`" not in page} == set()


def test_every_program_has_its_heading_and_its_description(page: str) -> None:
    parts = dict(zip(*[iter(re.split(r"^## (.*)$", page, flags=re.M)[1:])] * 2, strict=True))
    for path in program_paths():
        assert len(parts[path].split()) > 5, f"{path} says nothing of itself"
    assert "--host-discovery-script" in parts["scripts/launch.py"]
    assert "CUDA_VISIBLE_DEVICES" in parts["launch_container.sh"]


def test_every_target_of_make_is_there(page: str) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert phony
    assert set(targets()) == set(phony[1].split())
    assert all(f"`make {name}`" in page for name in targets())


def test_settings_are_left_to_their_own_page(page: str) -> None:
    assert "`--learning_rate`" not in page


def test_parts_of_a_parser_and_their_flags() -> None:
    parser = ArgumentParser(prog="p")
    below = parser.add_subparsers().add_parser("one")
    below.add_argument("--flag", "-f", help="a flag")
    assert [name for name, _ in with_parts(parser)] == ["", "one"]
    assert [option(action) for action in own_actions(below)] == ["--flag, -f"]
    assert own_actions(parser) == []
