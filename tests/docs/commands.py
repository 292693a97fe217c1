"""What a command line of the documentation asks for: each program's own parser judges its flags and files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

import model
import model.objective
from config.command.cli import parse
from config.errors import ConfigError
from config.schema import Run
from scripts.manual.flags import targets
from scripts.manual.programs import LAUNCHER, parser_of, program_paths
from scripts.slurm.checks import ENTRIES, command_of
from tests.docs.blocks import SHELL, Block, Line, blocks_of, lines_of
from tests.support import ROOT
from train.assembly.kinds import KINDS

COVERED = {"scripts/demo.sh", "scripts/recipes/aoq.sh", "launch_container.sh"}
"""Shell programs that tests of their own run."""
HARMLESS = {"cat", "cd", "cp", "echo", "export", "head", "ls", "mkdir", "tail"}
TOOLS = {"pytest", "ruff", "mypy"}
OUTSIDE = {"apptainer", "ch-run", "docker", "git", "kill", "pip", "podman", "sbatch", "scancel", "squeue",
           "tensorboard"}  # fmt: skip
"""Programs that are not ours: their blocks say what they need."""
MOUNTED = re.compile(r"(?<![\w.}/])/(storage|txt|img|pretrain)(?=/)")


class Stale(Exception):
    """A command that the program named in it would refuse."""


class Shell:
    """Where the commands of one page are judged, one after the other: a folder, and variables that were exported.

    Unless it is really run, a command that trains leaves its config where a later command may name it.
    """

    def __init__(self, folder: Path, keeps_configs: bool = True) -> None:
        self.folder, self.keeps_configs = folder, keeps_configs
        self.variables = {"SCENES": "scenes", "OFFLINE": "offline"}

    def judge(self, line: Line, needs: str) -> list[list[str]]:
        """The commands of a line, each as words; raises Stale where one would be refused, ready to be run."""
        try:
            commands = self.commands(line.text)
            for words in commands:
                self.check(words, needs)
        except Stale as error:
            raise Stale(f"{line.where}: {error}") from None
        return commands

    def commands(self, text: str) -> list[list[str]]:
        """The words of each command; variables are put in, and mounted folders lie in this one."""
        reader = shlex.shlex(MOUNTED.sub(rf"{self.folder}/\1", text), posix=True, punctuation_chars="|&;<>")
        reader.whitespace_split, reader.commenters = True, "#"
        found: list[list[str]] = [[]]
        for word in reader:
            if word in ("&&", "|", ";", "&"):
                found.append([])
            else:
                found[-1].append(re.sub(r"\$\{?(\w+)\}?", self._value, word))
        return [self._without_variables(words) for words in found if words]

    def _value(self, match: re.Match[str]) -> str:
        if match[1] not in self.variables:
            raise Stale(f"${match[1]} was not set before; export it in a block of this page")
        return self.variables[match[1]]

    def _without_variables(self, words: list[str]) -> list[str]:
        words = words[1:] if words[0] == "export" else words
        while words and re.match(r"[A-Z_]\w*=", words[0]):
            name, _, value = words.pop(0).partition("=")
            self.variables[name] = value
        return words or ["export"]

    def check(self, words: Sequence[str], needs: str = "") -> None:
        """Raise Stale where the command would be refused."""
        program, rest = words[0].removeprefix(".venv/bin/").removeprefix("./"), list(words[1:])
        if re.fullmatch(r"python(3(\.11)?)?", program):
            self.check_program(rest, needs)
        elif program in ("horovodrun", "torchrun"):
            self.check(self.launched(program, rest), needs)
        elif program == "make":
            unknown = [word for word in rest if "=" not in word and word not in targets()]
            if unknown or not rest:
                raise Stale(f"make {' '.join(unknown)}: the Makefile has no such target")
        elif program == "bash" or (ROOT / program).is_file():
            self.check_script([program, *rest] if program != "bash" else rest, needs)
        elif program in TOOLS:
            self.check_paths(word for word in rest if word.startswith("tests/"))
        elif program in OUTSIDE:
            self.check_paths(word for word in rest if word.startswith("scripts/"))
            if not needs:
                raise Stale(f"{program} is not of this project: say what it needs in <!-- needs: ... -->")
        elif program not in HARMLESS:
            raise Stale(f"{program}: no such program")

    def check_paths(self, paths: Iterable[str]) -> None:
        missing = [word for word in paths if not (ROOT / word.partition("::")[0]).exists()]
        if missing:
            raise Stale(f"{missing[0]} does not exist")

    def check_script(self, words: list[str], needs: str) -> None:
        """A shell program: there must be one, and what it starts must be right."""
        path = words[0].removeprefix("./")
        self.check_paths([path])
        if path not in COVERED and not needs:
            raise Stale(f"{path}: no test runs it; say what it needs in <!-- needs: ... -->")
        if path == "launch_container.sh":
            inside = [word for word in words[1:] if word != "--dry-run"][4:]
            if inside:
                self.check(inside, needs)

    def check_program(self, words: list[str], needs: str) -> None:
        """A program of the project, by its parser; an entry also by the schema."""
        if words[:1] == ["-m"]:
            self.check(words[1:], needs)
            return
        path = words[0].removeprefix("./")
        if path == LAUNCHER:
            self.check(self.launched(path, words[1:]), needs)
        elif path in ENTRIES:
            self.check_entry(path, words[1:])
        elif path in program_paths():
            given = read(parser(path), words[1:])
            if path == "scripts/slurm/submit.py":
                self.check_job(vars(given)["kind"], vars(given)["words"])
        elif not (self.folder / path).is_file():
            raise Stale(f"{path}: no such program")

    def check_entry(self, path: str, words: Sequence[str]) -> None:
        """An entry of train/: its flags, its config file and the run that they describe."""
        talk = StringIO()
        try:
            with redirect_stderr(talk), redirect_stdout(talk), inside(self.folder, self.variables):
                run, _ = parse(words, path, KINDS, "", *ENTRIES[path])
                if self.keeps_configs:
                    keep(run)
        except SystemExit as end:
            if end.code:
                raise Stale(talk.getvalue().strip().replace("\n", "; ")) from None

    def check_job(self, kind: str, words: Sequence[str]) -> None:
        """What submit.py is given: a program's command, or a file of them."""
        if kind == "array":
            if not (self.folder / words[0]).is_file():
                raise Stale(f"{words[0]}: show its content in a block after <!-- file: {words[0]} -->")
            for line in (self.folder / words[0]).read_text().splitlines():
                self.check_program(self.commands(line)[0], "")
            return
        try:
            self.check_program(command_of(kind, words), "")
        except ConfigError as error:
            raise Stale(str(error)) from None

    def launched(self, launcher: str, words: Sequence[str]) -> list[str]:
        """The command that a launcher is told to start."""
        if launcher == "torchrun":
            from torch.distributed.run import get_args_parser

            given = read(get_args_parser(), words)
            return ["python", given.training_script, *given.training_script_args]
        found = read(parser(LAUNCHER), words).command
        if not found:
            raise Stale(f"{launcher}: no program is named after its flags")
        return list(found)


@contextmanager
def inside(folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """A folder as the working one, with variables of the environment and the systems that a page has written there."""
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in variables.items():
            patch.setenv(name, value)
        for package in (model, model.objective):
            patch.setattr(package, "__path__", [*package.__path__, str(folder / package.__name__.replace(".", "/"))])
        try:
            yield
        finally:
            for name in set(sys.modules) - known:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                    del sys.modules[name]


def keep(run: Run) -> None:
    """What training would leave of a run for later commands."""
    if run.output.output_dir and not (config := Path(run.output.output_dir, "config.json")).exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps({name: part for name, part in run.dump().items() if name != "cluster"}))


@cache
def parser(path: str) -> ArgumentParser:
    """A program's parser, as the program itself builds it."""
    return parser_of(path)


def read(flags: ArgumentParser, words: Sequence[str]):  # type: ignore[no-untyped-def]
    """What a parser reads; raises Stale with its complaint."""
    talk = StringIO()
    try:
        with redirect_stderr(talk), redirect_stdout(talk):
            return flags.parse_args(list(words))
    except ConfigError as error:
        raise Stale(str(error)) from None
    except SystemExit as end:
        if end.code:
            raise Stale(talk.getvalue().strip().splitlines()[-1]) from None
        raise Stale("--help ends the program") from None


def problems(text: str, page: str, folder: Path) -> list[str]:
    """Everything in a page that no reader could follow, as `page:line: why`."""
    shell, found = Shell(folder), list[str]()
    shutil.copytree(ROOT / "config", folder / "config", dirs_exist_ok=True)
    for block in blocks_of(text, page):
        if not block.language:
            found.append(f"{page}:{block.line}: the block has no language; write bash, console, text, json ...")
        elif block.file:
            write(block, folder)
        elif block.language in SHELL:
            for line in lines_of(block):
                try:
                    shell.judge(line, block.needs)
                except Stale as error:
                    found.append(str(error))
    return found


def write(block: Block, folder: Path) -> None:
    """The file that a block shows."""
    path = folder / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text + "\n")
