"""Every program for people, with the parser that it builds itself."""

from __future__ import annotations

import runpy
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

from scripts.command.program import Parser

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("train", "scripts", "scripts/slurm")
WITHOUT_FLAGS = {"scripts/horovod_edits.py", "scripts/slurm/ranks.py"}
"""Programs that other programs start; they have no flags."""
LAUNCHER = "scripts/launch.py"
"""Its flags are those of horovodrun."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class _Built(BaseException):
    """Ends a program at the moment when its parser would read the command line; no program catches it."""

    def __init__(self, parser: ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def program_paths() -> list[str]:
    """Return the programs that have flags, as paths from the project's root, entries first."""
    files = [path for place in PLACES for path in sorted((ROOT / place).glob("*.py"))]
    found = [str(path.relative_to(ROOT)) for path in files if '__name__ == "__main__"' in path.read_text("utf-8")]
    return [path for path in found if path not in WITHOUT_FLAGS]


def parser_of(path: str, words: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser that a program builds; `words` choose among several, as `--matcher laps` does.

    The program runs up to the moment when the parser would read its command line, and no further.

    Raises:
        LookupError: the program ends without one; it belongs to `WITHOUT_FLAGS`.
    """

    def stop(parser: ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise _Built(parser)

    with _restored(), patch.object(ArgumentParser, "parse_args", stop), patch.object(Parser, "parse_args", stop):
        sys.argv = [path, *words]
        sys.path.insert(0, str((ROOT / path).parent))
        try:
            runpy.run_path(str(ROOT / path), run_name="__main__")
        except _Built as built:
            return built.parser
        except SystemExit as end:
            raise LookupError(f"{path}: left with {end.code} before its parser was built") from end
    raise LookupError(f"{path}: ends without reading a command line; list it among WITHOUT_FLAGS")


@contextmanager
def _restored() -> Iterator[None]:
    """Put back what the beginning of a program changes: the words, the import path and the signal handlers."""
    argv, path = sys.argv, list(sys.path)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
        for number, handler in handlers.items():
            signal.signal(number, handler)
