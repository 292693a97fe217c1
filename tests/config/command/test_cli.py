from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest

from config import load
from config.command.cli import exit_on_error, parse
from config.errors import ConfigError, DataError, Failure
from config.kinds import Kinds

Write = Callable[..., Path]


def test_a_command_line_becomes_a_run_and_the_entry_s_own_flags(kinds: Kinds, write: Write) -> None:
    def extra(parser: ArgumentParser) -> None:
        parser.add_argument("--split", default="test")
        parser.add_argument("--half-way", type=int)

    path = write("run.json", {"optim": {"learning_rate": 1e-3}})
    line = ["--config", str(path), "--max-bb", "50", "--split", "val", "--half_way", "8", "--dry-run"]
    run, args = parse(line, "evaluate", kinds, "Score and rank.", extra)
    assert (run.optim.learning_rate, run.data.max_bb) == (1e-3, 50)
    assert vars(args) == {"config": str(path), "dry_run": True, "split": "val", "half_way": 8, "notes": (),
                          "said": {"data.max_bb"}}  # fmt: skip


def test_notes_about_the_files_are_handed_on(kinds: Kinds, write: Write) -> None:
    _, args = parse(
        ["--config", str(write("flat.json", {"local_rank": 0, "fp16": True}))], "itm_hn", kinds, ""
    )
    assert [note.partition(": ")[2] for note in args.notes] == [
        "local_rank has no effect: ranks are read from the launcher's environment"
    ]


def test_the_matcher_s_flags_follow_the_file_and_the_flags(kinds: Kinds, write: Write) -> None:
    path = write("run.json", {"matcher": {"name": "towers", "width": 2}})
    assert parse(["--config", str(path), "--width", "4"], "x", kinds, "")[0].dump()["matcher"]["width"] == 4
    assert parse(["--matcher", "towers", "--width", "6"], "x", kinds, "")[0].dump()["matcher"]["width"] == 6
    assert parse(["--config", str(path), "--matcher", "uniter", "--hidden_size", "8"], "x", kinds, "")[0]


def test_print_config_prints_a_config_with_the_origin_of_each_value(
    kinds: Kinds, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("flat.json", {"learning_rate": 1e-3, "fp16": True, "rank": 0, "seed": 3})
    with pytest.raises(SystemExit) as left:
        parse(
            ["--config", str(path), "--max_bb", "50", "--set", "matcher.hidden_size=64", "--print-config"],
            "x",
            kinds,
            "",
        )
    assert left.value.code == 0
    out, err = capsys.readouterr()
    tree = json.loads(out)
    assert tree["optim"]["_note"] == {"learning_rate": str(path), "precision": str(path)}
    assert tree["data"]["_note"] == {"max_bb": "--max_bb"}
    assert tree["matcher"]["_note"] == {"hidden_size": "--set matcher.hidden_size"}
    assert tree["_note"] == {"seed": str(path)}
    assert "_note" not in tree["eval"]
    assert "rank has no effect" in err
    again = load(write("printed.json", out), {}, kinds)
    assert (again.seed, again.optim.precision, again.data.max_bb) == (3, "fp16", 50)


def test_help_and_version_answer_and_leave(kinds: Kinds, capsys: pytest.CaptureFixture[str]) -> None:
    for flag, answer in (
        ("--help", "Train with hard negatives."),
        ("-h", "--print-config"),
        ("--version", "itm_hn "),
    ):
        with pytest.raises(SystemExit) as left:
            parse([flag], "itm_hn", kinds, "Train with hard negatives.")
        assert left.value.code == 0
        assert answer in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lerning_rate 1", "itm_hn: --lerning_rate is not a flag: did you mean --learning_rate?"),
        (
            "--learning_rate -1",
            "itm_hn: optim.learning_rate = -1.0 (--learning_rate): should be greater than 0",
        ),
        ("--set optim.lr=1", "itm_hn: optim.lr (--set optim.lr) is not a known key: "),
        ("--max_bb few", "itm_hn: data.max_bb = 'few' (--max_bb): should be a valid integer"),
        ("--objective hing", "itm_hn: objective.name = 'hing' (--objective): known are hinge"),
        ("--hard_neg_size 400", "negatives.hard_neg_size: --hard_neg_size, negatives.negative_size: default"),
        ("--config nowhere.json", "itm_hn: nowhere.json: there is no such config file"),
        ("--set data=3 --set data.max_bb=4", "data was given as a value too"),
    ],
)
def test_a_wrong_line_leaves_with_2_and_one_line(
    line: str, message: str, kinds: Kinds, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(line.split(), "itm_hn", kinds, "")
    out, err = capsys.readouterr()
    assert left.value.code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(ConfigError("a"), 2), (DataError("a"), 3), (Failure("a"), 1)])
def test_errors_told_in_one_line_have_their_exit_codes(
    error: ConfigError | DataError | Failure, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, exit_on_error("mine"):
        raise error
    assert left.value.code == code
    assert capsys.readouterr().err == "mine: a\n"


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError), exit_on_error("mine"):
        raise RuntimeError


def test_the_first_word_may_be_the_config(kinds: Kinds, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write("run.json", {"optim": {"learning_rate": 1e-3}}))
    run, args = parse([path, "--max_bb", "50"], "x", kinds, "")
    assert (run.optim.learning_rate, run.data.max_bb, args.config) == (1e-3, 50, path)
    for line, message in (([path, "--config", path], "name two configs"), (["--seed", "1", path], "is the first word")):
        with pytest.raises(SystemExit):
            parse(line, "x", kinds, "")
        assert message in capsys.readouterr().err


def test_a_run_s_folder_stands_for_its_config_wherever_it_was_moved(kinds: Kinds, write: Write) -> None:
    config = write("moved/config.json", {"matcher": {"name": "uniter"}, "output": {"output_dir": "/gone", "keep": 7}})
    for words in ([str(config.parent)], ["--config", str(config.parent)]):
        run, _ = parse(words, "evaluate", kinds, "")
        assert (run.output.output_dir, run.output.keep) == (str(config.parent), 7)
    assert parse([str(config)], "evaluate", kinds, "")[0].output.output_dir == "/gone"
    assert parse([str(config.parent), "--output_dir", "new"], "x", kinds, "")[0].output.output_dir == "new"
