"""What all programs share: how they read their arguments, and how they end."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from config.errors import FAILED, INTERRUPTED, ConfigError, DataError, Failure
from config.hints import did_you_mean


class Parser(ArgumentParser):
    """An argument parser that tells what is wrong in one line, and guesses what was meant."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """What a command line says; raises ConfigError for a flag that is unknown or lacks its value."""
        self._refuse_empty(sys.argv[1:] if args is None else args)
        found, others = self.parse_known_args(args, namespace)
        if others:
            flag = next((word.partition("=")[0] for word in others if word.startswith("-")), others[0])
            here = [option for option in self._option_string_actions if option.startswith("--")]
            what = "not a flag" if flag.startswith("-") else "one word too many"
            raise ConfigError(f"{flag} is {what}: {did_you_mean(flag, here, '--help lists all flags')}")
        return found

    def _refuse_empty(self, words: Sequence[str]) -> None:
        """Raise ConfigError for an empty word where a path is wanted: it would be the current folder."""
        for before, word in zip(["", *words], words, strict=False):
            action = self._option_string_actions.get(before)
            if word == "" and (action is None or action.type is Path):
                raise ConfigError(f"{before or 'a word'} is empty; is a variable not set?")

    def error(self, message: str) -> NoReturn:
        """Raise it, without the page of usage before it."""
        raise ConfigError(f"{message}; --help lists all flags")


def naming_runs(words: Sequence[str] | None) -> list[str]:
    """A command line whose words are runs: `--config RUN` is RUN, as the programs in train/ take it too."""
    plain: list[str] = []
    for word in sys.argv[1:] if words is None else words:
        flag, equals, value = word.partition("=")
        plain += [value] if flag == "--config" and equals else [] if flag == "--config" else [word]
    return plain


def run(main: Callable[[], int]) -> NoReturn:
    """Call a program and leave with its exit code; errors of the user's input become one line on stderr."""
    try:
        code = main()
    except (ConfigError, DataError, Failure) as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        told = f"{error.filename or 'a file'}: {error.strerror or error}; mend that and start again"
        print(f"{os.path.basename(sys.argv[0])}: {told}", file=sys.stderr)
        code = FAILED
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
