"""The page of programs: what each is for, and every flag, from the parsers themselves."""

from __future__ import annotations

import re
import subprocess
from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator

from scripts.manual.markdown import code, docstring, plain, table
from scripts.manual.programs import LAUNCHER, ROOT, parser_of, program_paths

HEAD = ("flag", "value", "meaning")
INTRODUCTION = """# Programs

Every program and every flag, from the parsers that read them. Programs of `train/` also take every
[setting](settings.md) as a flag. Each program prints the same with `--help`. What the exit codes mean:
[Reliability](../reliability.md#exit-codes).

"""


def programs_page() -> str:
    """Return the page."""
    parts = [INTRODUCTION, *(_program(path) for path in program_paths()), _container(), _targets()]
    return "".join(parts)


def own_actions(parser: ArgumentParser) -> list[Action]:
    """Return the flags and positional words of a parser that are no settings, without `--help`."""
    return [action for action in parser._actions
            if not hasattr(action, "key") and not isinstance(action, _SubParsersAction) and action.dest != "help"
            and action.help is not SUPPRESS]


def with_parts(parser: ArgumentParser) -> Iterator[tuple[str, ArgumentParser]]:
    """Yield a parser and those below it, each with the words that choose it."""
    yield "", parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            yield from action.choices.items()


def option(action: Action) -> str:
    """Return how an action is written: its flags, or the name of its place."""
    return ", ".join(action.option_strings) or str(action.metavar or action.dest)


def _program(path: str) -> str:
    parser = parser_of(path)
    parts = [f"\n## {path}\n\n", docstring("\n\n".join(filter(None, (parser.description, parser.epilog))))]
    if path == LAUNCHER:
        parts = [f"\n## {path}\n\n", docstring(_doc(path))]
    seen: set[str] = set()
    for name, part in with_parts(parser):
        actions = [action for action in own_actions(part) if option(action) not in seen or not action.option_strings]
        if not actions:
            continue
        if name:
            parts.append(f"\n### {path} {name}\n\n")
        parts.append("\n" + table(HEAD, ([code(option(one)), plain(_value(one)), plain(_help(part, one))]
                                         for one in actions)))
    return "".join(parts)


def _doc(path: str) -> str:
    found = re.search(r'"""(.*?)"""', (ROOT / path).read_text("utf-8"), re.S)
    return found[1] if found else ""


def _value(action: Action) -> str:
    if action.choices:
        return ", ".join(map(str, action.choices))
    if action.nargs == 0:
        return ""
    form = action.metavar or action.dest.upper()
    shown = " ".join(form) if isinstance(form, tuple) else str(form)
    return {"+": f"{shown} ...", "*": f"[{shown} ...]", "?": f"[{shown}]"}.get(str(action.nargs), shown)


def _help(parser: ArgumentParser, action: Action) -> str:
    values = {name: value for name, value in vars(action).items() if value is not SUPPRESS} | {"prog": parser.prog}
    return (action.help or "") % values


def _container() -> str:
    told = subprocess.check_output(["bash", "launch_container.sh", "--help"], cwd=ROOT, text=True)
    return f"\n## launch_container.sh\n\n```text\n{told.strip()}\n```\n"


def targets() -> dict[str, str]:
    """Return what `make` can be asked for, and what it does."""
    return dict(re.findall(r"^([a-z-]+):.*?##\s*(.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M))


def _targets() -> str:
    return "\n## make\n\n" + table(("target", "what it does"), ([code(f"make {name}"), plain(what)]
                                                                for name, what in targets().items()))
