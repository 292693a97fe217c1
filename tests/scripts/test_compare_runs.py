"""compare_runs.py: recalls side by side, what differs, and what must not be compared."""

from __future__ import annotations

import json

import pytest

from config.errors import DataError
from scripts.compare_runs import main, short_names


def test_two_runs_side_by_side(make_run, capsys):
    weak, strong = make_run("weak", strength=0.5), make_run("strong", strength=3.0, learning_rate=1e-4)
    assert main([str(weak), str(strong)]) == 0
    said = capsys.readouterr().out.splitlines()
    told = json.loads((strong / "results.json").read_text())["test"]["recalls"]
    assert said[1].split()[0] == "weak"
    assert said[2].split()[:2] == ["strong", f"{told['rsum']:.1f}*"]
    assert "*" not in said[1].split()[1]
    assert [line.split() for line in said[4:]] == [["setting", "weak", "strong"],
                                                   ["optim.learning_rate", "5e-05", "0.0001"]]


def test_markdown_tables(make_run, capsys):
    assert main([str(make_run("one")), str(make_run("two", seed=1)), "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "| --- | --: |" in said
    assert "| seed | 0 | 1 |" in said
    assert all(line.startswith("| ") and line.endswith(" |") for line in said.splitlines() if line)


def test_runs_judged_in_different_ways_are_told_apart(make_run, capsys):
    one, two = make_run("one"), make_run("two", images=20)
    content = json.loads((two / "results.json").read_text())
    content["test"]["ir_count"] = "legacy"
    (two / "results.json").write_text(json.dumps(content))
    main([str(one), str(two)])
    said = capsys.readouterr().out
    assert "not comparable, images differ: one 24, two 20" in said
    assert "not comparable, image retrieval count differ: one correct, two legacy" in said
    assert "no setting differs" in said


def test_a_split_that_was_not_evaluated_is_refused(make_run):
    with pytest.raises(DataError, match=r"'val' was not evaluated \(evaluated: test\)"):
        main([str(make_run()), "--split", "val"])


def test_names(tmp_path):
    assert short_names([tmp_path / "a" / "run", tmp_path / "b" / "best"]) == ["run", "best"]
    assert short_names([tmp_path / "a" / "run", tmp_path / "b" / "run"])[0].endswith("a/run")
