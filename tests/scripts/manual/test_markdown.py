"""Markdown that says what was given, whatever signs are in it."""

from __future__ import annotations

from scripts.manual.markdown import code, docstring, plain, prose, table


def test_a_table_keeps_each_cell_on_its_line() -> None:
    assert table(("a", "b"), [("x\ny", "1|2")]) == "| a | b |\n| --- | --- |\n| x y | 1\\|2 |\n"


def test_signs_are_shown_as_they_are() -> None:
    assert plain("a_b *c* <d> [e]") == "a\\_b \\*c\\* &lt;d> \\[e]"
    assert code("a_b") == "`a_b`"
    assert code("") == ""
    assert prose("a_b as `c_d` *e*") == "a\\_b as `c_d` \\*e\\*"


def test_a_docstring_keeps_its_commands() -> None:
    text = "Do a thing\nto a file.\n\n    python a.py \\\n        --b c\n\n- one\n- two\n"
    assert docstring(text) == ("Do a thing to a file.\n\n```text\npython a.py \\\n    --b c\n```\n\n- one\n- two\n")
