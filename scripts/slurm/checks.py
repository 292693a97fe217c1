"""What is looked at before a job is submitted: hours of waiting should not end at a misspelled flag."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from config.command import settings_read
from config.command.cli import Extra, parse
from config.command.settings_read import Reads
from config.errors import ConfigError, DataError
from config.paths import Kind, describe_mismatch, inspect_path
from config.schema import Run
from train import evaluate, mine
from train.assembly.kinds import KINDS
from train.checkpointing.checkpoint_path import checkpoint_at
from train.loop.claim import find_extension

ENTRIES: dict[str, tuple[Extra | None, Reads]] = {
    "train/itm_hn.py": (None, settings_read.training_on_pools),
    "train/itm.py": (None, settings_read.training_on_batches),
    "train/evaluate.py": (evaluate.flags, settings_read.measuring),
    "train/mine.py": (mine.flags, settings_read.mining),
}
"""The entries, the flags that each has besides the settings, and which of those it reads."""
OWN_ENTRY = {"evaluate": "train/evaluate.py", "mine": "train/mine.py"}


def command_of(kind: str, words: Sequence[str]) -> list[str]:
    """The entry and its flags that a batch script of this kind runs when it is given these words.

    Raises:
        ConfigError: they do not name an entry where they should.
    """
    if kind in OWN_ENTRY:
        if words and words[0] in ENTRIES:
            raise ConfigError(f"{words[0]}: {kind} has its own program; leave the word out")
        return [OWN_ENTRY[kind], *words]
    if not words or words[0] not in ENTRIES:
        given = f"{words[0]}: no such program" if words else "no program is named"
        raise ConfigError(f"{given}; begin with one of {', '.join(ENTRIES)}")
    return list(words)


def lines_of(path: Path) -> list[list[str]]:
    """The commands in the file of an array job.

    Raises:
        ConfigError: it is missing or empty, a line is empty, or its quotes do not match.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is {inspect_path(path).words} and no text; name a file with one command on each "
                          "line") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file with one command on each line") from error
    if not lines:
        raise ConfigError(f"{path}: is empty; write one command on each line, such as {next(iter(ENTRIES))} --config X")
    commands: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}; close the quotes") from error
        if not words:
            raise ConfigError(f"{path}, line {number}: is empty; every line is the command of one task")
        commands.append(command_of("array", words))
    return commands


def checked(command: Sequence[str]) -> Run:
    """The run that a command describes; wrong flags leave with 2 and their line, as the entry itself would.

    Raises:
        ConfigError: it names no output folder, or one that holds another run.
        DataError: a store or a checkpoint is not there, or is something else.
    """
    entry, *words = command
    run, args = parse(words, Path(entry).stem, KINDS, "", *ENTRIES[entry])
    if not run.output.output_dir and not getattr(args, "lists", None):
        raise ConfigError(f"{entry}: output_dir is not set; give --output_dir FOLDER")
    if entry not in OWN_ENTRY.values():
        find_extension(run)
    wrong = [told for store, kind in stores_of(run, entry, args) if (told := _no_store(Path(store), kind))]
    if wrong:
        raise DataError(f"{entry}: {'; '.join(wrong)}")
    which = getattr(args, "which", None)
    if which and which not in ("best", "latest", "random"):
        checkpoint_at(Path(which), "which")
    return run


def _no_store(path: Path, kind: Kind) -> str:
    """What is wrong with a path that should be a store of a kind; '' for nothing."""
    if inspect_path(path).kind is kind:
        return ""
    told = describe_mismatch(path, kind, "name stores that all nodes see, on this host too")
    return f"{path} is not {kind.value}: {told}"


def stores_of(run: Run, entry: str, args: Namespace) -> list[tuple[str, Kind]]:
    """The folders that an entry reads first, and what each should be."""
    data = run.data
    if getattr(args, "embeddings", None) or getattr(args, "scores", None):
        return []
    texts, images = data.train_txt_dbs, data.train_img_dbs
    if entry == "train/evaluate.py":
        texts, images = (getattr(data, f"{args.split}_txt_db"),), (getattr(data, f"{args.split}_img_db"),)
    both = [*((path, Kind.TEXTS) for path in texts), *((path, Kind.IMAGES) for path in images)]
    return [(path, kind) for path, kind in both if path]


def seconds_of(limit: str) -> int:
    """A time limit as SLURM writes it: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s.

    Raises:
        ConfigError: it is none of these.
    """
    if not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", limit):
        raise ConfigError(f"--time {limit}: should be minutes, hours:minutes:seconds, or days-hours")
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) < 3:
        parts = [0, *parts, 0][:3]
    hours, minutes, seconds = parts
    return hours * 3600 + minutes * 60 + seconds
