"""Parallel maps keep their order, and programs end with the right code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.errors import ConfigError, DataError
from scripts.command.parallel import batches, in_order
from scripts.command.program import Parser, naming_runs, run


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise DataError(f"number {number} is bad")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(in_order(square, range(40), workers)) == [square(number) for number in range(40)]


def test_only_a_few_items_are_taken_ahead_of_the_results() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_order(square, items(), 2)
    assert next(results) == 0
    assert len(taken) < 20
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_workers_arrive(workers: int) -> None:
    with pytest.raises(DataError, match="number 0 is bad"):
        list(in_order(fail, range(3), workers))


def test_batches_cover_the_items() -> None:
    assert batches([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]


def raising(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("flag"), 2), (DataError("store"), 3), (OSError("disk"), 1), (KeyboardInterrupt(), 130)],
)
def test_errors_become_exit_codes_and_one_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(raising(error))
    assert left.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == (0 if code == 130 else 1)


def test_success_leaves_with_0() -> None:
    with pytest.raises(SystemExit) as left:
        run(lambda: 0)
    assert left.value.code == 0


@pytest.mark.parametrize(("words", "told"), [
    (["--otput", "x"], r"--otput is not a flag: did you mean --output\?"),
    (["--config=RUN"], "--config is not a flag: --help lists all flags"),
    (["--output"], "argument --output: expected one argument; --help lists all flags"),
    (["more"], "more is one word too many: --help lists all flags"),
])
def test_a_wrong_command_line_is_told_in_one_line(words: list[str], told: str) -> None:
    parser = Parser(allow_abbrev=False)
    parser.add_argument("--output")
    with pytest.raises(ConfigError, match=f"^{told}$"):
        parser.parse_args(words)
    assert parser.parse_args(["--output", "x"]).output == "x"


@pytest.mark.parametrize("words", [["--config", "RUN", "--split", "val"], ["--config=RUN", "--split", "val"],
                                   ["RUN", "--split", "val"]])
def test_a_run_may_come_after_config_as_elsewhere(words: list[str]) -> None:
    assert naming_runs(words) == ["RUN", "--split", "val"]


@pytest.mark.parametrize("words", [["--output", ""], [""], ["x", "--output", ""]])
def test_an_empty_word_is_no_path(words: list[str]) -> None:
    """As of a variable that is not set: it would be the current folder."""
    parser = Parser()
    parser.add_argument("--output", type=Path)
    parser.add_argument("--flags")
    parser.add_argument("input", nargs="?", type=Path)
    with pytest.raises(ConfigError, match="is empty; is a variable not set"):
        parser.parse_args(words)
    assert parser.parse_args(["--flags", ""]).flags == ""
