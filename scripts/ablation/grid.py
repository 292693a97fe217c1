"""Which runs there are: configs, times variants, times seeds; all checked before the first one starts, and told from
others before."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config import load
from config.command.cli import Extra, parse
from config.command.settings_read import measuring, refuse_unread
from config.errors import ConfigError
from config.paths import CONFIG
from config.schema import Run
from scripts.ablation.rows import PLUS, Row
from scripts.command.training_program import READS, training_program
from train.assembly.kinds import KINDS
from train.evaluate import flags as evaluate_flags
from train.loop.claim import describe_differences, find_differences
from train.metrics.journal import METRICS, read_events


@dataclass(frozen=True)
class Column:
    """What is compared: a config as it stands, or a variant of it, named `config+variant`, with flags of its own."""

    config: Path
    variant: str = ""
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.config.stem + (PLUS + self.variant if self.variant else "")


@dataclass(frozen=True)
class Cell:
    """One column with one seed: a training run and its output folder."""

    column: Column
    seed: int
    folder: Path
    words: tuple[str, ...]
    """what the training entry is called with"""
    run: Run

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def key(self) -> tuple[str, int]:
        return self.column.name, self.seed

    @property
    def program(self) -> str:
        """The entry that trains it."""
        return training_program(self.run)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")


def columns(configs: Sequence[Path], variants: Sequence[str]) -> list[Column]:
    """Every config in every variant, `'NAME: FLAGS'` or a bare `NAME` for the config as it stands.

    Raises:
        ConfigError: two would share a name, or a name cannot be told from others or be a folder's.
    """
    for place, path in enumerate(configs):
        twin = next((other for other in configs[:place] if other.stem == path.stem), None)
        if twin:
            raise ConfigError(f"--configs {twin} {path}: both would be called {path.stem!r}; copy one to another name")
        if PLUS in path.stem:
            raise ConfigError(f"--configs {path}: {PLUS!r} stands between a config and its variant; rename the file")
    named: dict[str, tuple[str, ...]] = {}
    for text in variants:
        name, _, flags = (part.strip() for part in text.partition(":"))
        if not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(f"--vary {text!r}: should be 'NAME: FLAGS', the name of letters, digits, '_', '.', '-'")
        if name in named:
            raise ConfigError(f"--vary {name}: stands there twice; rename one")
        named[name] = tuple(split_words("--vary", flags))
    if not named:
        return [Column(config) for config in configs]
    return [Column(config, name, flags) for config in configs for name, flags in named.items()]


def plan(compared: Sequence[Column], seeds: Sequence[int], output: Path, flags: Sequence[str]) -> list[Cell]:
    """The runs of a grid, one seed of all columns after the other, so that a table is fair from early on.

    Raises:
        ConfigError: a seed stands there twice, or `flags` hold what the grid decides.
        SystemExit: a config or flag is wrong; it was told in one line, as the training entry tells it.
    """
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {' '.join(map(str, seeds))}: a seed stands there twice; remove one")
    return [make_cell(column, seed, output, flags) for seed in seeds for column in compared]


def make_cell(column: Column, seed: int, output: Path, flags: Sequence[str]) -> Cell:
    """One run, as `plan` makes it; a variant's flags have the last word."""
    folder = output / f"{column.name}-seed{seed}"
    words = ("--config", str(column.config), "--seed", str(seed), "--output_dir", str(folder), *flags, *column.flags)
    given_by = f"--flags or --vary {column.variant}" if column.variant else "--flags"
    run, args = _understood(given_by, words)
    program = training_program(run)
    refuse_unread(run, args.said, READS[program](args), program)
    return Cell(column, seed, folder, words, run)


def check_evaluations(cells: Sequence[Cell], evaluations: Sequence[Sequence[str]]) -> None:
    """Find a wrong flag of an evaluation before the hours of training, and a grid that would measure nothing.

    Raises:
        ConfigError: `evaluations` hold what the grid decides, or a run has no test set and no evaluation.
        SystemExit: a flag is wrong; it was told in one line, as the evaluation entry tells it.
    """
    for cell in cells:
        if not evaluations and not cell.run.data.test_txt_db:
            raise ConfigError(f"{cell.column.config}: test_txt_db is not set, nothing would be measured; name a test "
                              "set, or another split with --evaluate \"--split val\"")
        _, trained = _understood("--flags", cell.words)
        for flags in evaluations:
            run, args = _understood("--evaluate", (*cell.words, *flags), evaluate_flags)
            refuse_unread(run, args.said - trained.said, measuring(args), "--evaluate: train/evaluate.py")


def _understood(given_by: str, words: Sequence[str], extra: Extra | None = None) -> tuple[Run, Namespace]:
    """The run that an entry would make of its words, the first six of which are the grid's own."""
    run, args = parse(words, "ablate.py", KINDS, "", extra)
    kept = {"config": args.config == words[1], "seed": str(run.seed) == words[3],
            "output_dir": run.output.output_dir == words[5], "dry_run": not args.dry_run}
    for name, is_kept in kept.items():
        if not is_kept:
            raise ConfigError(f"{given_by}: --{name} is for the grid to say; leave it out")
    return run, args


def split_words(flag: str, text: str) -> list[str]:
    """The words of flags that were given as one text, as a shell splits them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {text!r}: {error}; close it") from None


def refuse_mixture(cells: Sequence[Cell], rows: Mapping[tuple[str, int], Row], ranks: int) -> None:
    """Let no other run hide under the name of one of these, neither in the table nor in a half-trained folder.

    Raises:
        ConfigError: a row or folder is of another run, or of another number of ranks.
    """
    for cell in cells:
        row, folder = rows.get(cell.key), cell.folder
        found = load(folder / CONFIG, {}, KINDS) if (folder / CONFIG).exists() else None
        if not row and not found:
            continue
        hashes, worlds = ({row.hash}, {row.ranks}) if row else (set(), _worlds(folder))
        changed = find_differences(found, cell.run) if found else {}
        if changed or hashes - {cell.run.hash()}:
            what = describe_differences(changed) or f"run {', '.join(hashes)} then, run {cell.run.hash()} now"
            raise ConfigError(f"{cell.name}: {folder.parent} holds a run with other settings than {cell.column.config} "
                              f"has now ({what}); name another --output_dir or rename the config")
        for other in worlds - {ranks}:
            raise ConfigError(f"{cell.name}: was trained with --ranks {other}, now --ranks {ranks}: its batches "
                              f"would differ; use --ranks {other} or another --output_dir")


def _worlds(folder: Path) -> set[int]:
    """The numbers of ranks that a folder's run was started with."""
    events = read_events(folder / METRICS) if (folder / METRICS).exists() else []
    return {event["world"] for event in events if event["event"] == "start"}
