"""Programs give the parser that they build, and do nothing else."""

from __future__ import annotations

import signal
import sys

import pytest

from scripts.manual import programs
from scripts.manual.programs import LAUNCHER, parser_of, program_paths
from tests.support import ROOT


def test_every_program_that_can_be_started_is_listed_or_has_no_flags() -> None:
    found = set(program_paths())
    assert {"train/itm.py", "train/itm_hn.py", "train/evaluate.py", "train/mine.py", LAUNCHER} <= found
    for path in programs.WITHOUT_FLAGS:
        assert "argparse" not in (ROOT / path).read_text("utf-8"), f"{path} has flags"


@pytest.mark.parametrize("path", program_paths())
def test_a_program_gives_its_parser_and_changes_nothing(path: str) -> None:
    handlers = [signal.getsignal(number) for number in programs.SIGNALS]
    words, places = sys.argv, list(sys.path)
    assert parser_of(path).parse_known_args
    assert [signal.getsignal(number) for number in programs.SIGNALS] == handlers
    assert (sys.argv, sys.path) == (words, places)


def test_words_choose_among_the_parsers_of_an_entry() -> None:
    flags = {option for action in parser_of("train/itm.py", ["--matcher", "laps"])._actions
             for option in action.option_strings}
    assert "--sparse_ratio" in flags
    assert "--hidden_size" not in flags


def test_a_program_without_a_parser_is_refused() -> None:
    with pytest.raises(LookupError, match="WITHOUT_FLAGS"):
        parser_of("config/errors.py")
