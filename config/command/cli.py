"""The command line of every entry: one function returns a checked Run, or ends with one line and an exit code."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from config.assemble import Resolved, resolve, section_types
from config.command.flags import add_commands, add_leaves, build_parser
from config.command.settings_read import Reads, anything, refuse_unread
from config.errors import ConfigError, DataError, Failure
from config.files import NOTE, Reader
from config.kinds import Kinds
from config.leaves import merge
from config.schema import Run

Extra = Callable[[ArgumentParser], object]
"""Adds an entry's own flags to the parser."""


def parse(
    argv: Sequence[str], program: str, kinds: Kinds, description: str, extra: Extra | None = None,
    reads: Reads = anything,
) -> tuple[Run, Namespace]:
    """Return the run that a command line describes, and the entry's own flags.

    The Namespace holds `dry_run`, `config` (a path or None), `notes` (lines to say about the config files), `said`
    (the dotted keys that the command line gives) and what `extra` defined. `--help`, `--version` and `--print-config`
    answer on stdout and leave with 0; a wrong flag, key or value, or a flag of a setting that the program does not
    read (`reads` tells), leaves with 2 and one line on stderr.
    """
    with exit_on_error(program):
        argv = with_config_named(argv)
        first = build_parser(program, description, kinds).read_known(argv)
        reader = Reader()
        in_files = reader.read(first.config) if first.config else {}

        parser = build_parser(program, description, kinds)
        add_commands(parser, _version())
        if extra:
            extra(parser)
        add_leaves(parser, section_types(merge(in_files, first.given), kinds))
        args = parser.read(argv)
        resolved = resolve(merge(in_files, args.given), kinds)
        args.said = frozenset(args.given)
        refuse_unread(resolved.run, args.said, reads(args), "this program")

    if args.print_config:
        sys.stderr.writelines(f"{note}\n" for note in reader.notes)
        sys.stdout.write(format_resolved(resolved))
        raise SystemExit(0)
    args.notes = tuple(reader.notes)
    del args.given, args.print_config
    return resolved.run, args


def with_config_named(argv: Sequence[str]) -> list[str]:
    """The words of a command line, its first one after `--config` where it is no flag: `evaluate.py RUN --split val`.

    Raises ConfigError where `--config` is given too.
    """
    first, *others = argv or [""]
    if not first or first.startswith("-"):
        return list(argv)
    if any(word.partition("=")[0] == "--config" for word in others):
        raise ConfigError(f"{first} and --config name two configs; leave one of them out")
    return ["--config", *argv]


@contextmanager
def exit_on_error(program: str) -> Iterator[None]:
    """Turn an error that is told in one line into that line on stderr and its exit code."""
    try:
        yield
    except (ConfigError, DataError, Failure) as error:
        sys.stderr.write(f"{program}: {error}\n")
        raise SystemExit(error.exit_code) from None


def format_resolved(resolved: Resolved) -> str:
    """Return the run as a config file whose notes tell which file or flag gave each leaf but the defaults."""
    tree = resolved.run.dump()
    for key, where in resolved.origins.items():
        section, _, leaf = key.partition(".")
        if where != "default":
            place = tree[section] if leaf else tree
            place.setdefault(NOTE, {})[leaf or section] = where
    return json.dumps(tree, indent=2) + "\n"


def _version() -> str:
    try:
        return version("crossmatch")
    except PackageNotFoundError:
        return "(run from its source, not installed)"
