"""Flags generated from the schema: one for each setting, with its description, default and type in the help.

Each leaf of the common sections has a flag of its own name; so has each field of the chosen matcher and
objective whose name is not taken. `--set section.field=value` reaches everything. Values are only read here
and judged later, together with those of the files.
"""

from __future__ import annotations

import json
from argparse import SUPPRESS, Action, ArgumentParser, HelpFormatter, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from config.errors import ConfigError
from config.foreign_names import suggest
from config.hints import did_you_mean
from config.kinds import Kinds, comes_with
from config.leaves import DEFAULT_KINDS, IMPLIED, Given, flatten
from config.legacy import MEANING, ONLY, WITHOUT_EFFECT
from config.schema import Run
from config.sections import Section


class Parser(ArgumentParser):
    """An argument parser that raises ConfigError, takes `-` for `_` in flags, and guesses what was meant.

    The Namespace it returns holds `given`: the leaves named on the command line.
    """

    def __init__(self, program: str, description: str = "", elsewhere: Mapping[str, str] | None = None) -> None:
        super().__init__(
            prog=program,
            usage="%(prog)s [CONFIG or RUN] [--FLAG VALUE ...]",
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=lambda prog: HelpFormatter(prog, max_help_position=34, width=110),
        )
        self._elsewhere = elsewhere or {}

    def read(self, argv: Sequence[str]) -> Namespace:
        """Return what a command line says; ConfigError for a flag that is unknown or lacks its value."""
        known = self._options()
        for word in argv:
            if _is_flag(word) and _canonical(word) not in known:
                flag = word.partition("=")[0]
                raise ConfigError(self._elsewhere.get(_name(flag)) or _unknown(flag, known))
        return self.parse_args(self._spelled(argv), Namespace(given={}))

    def read_known(self, argv: Sequence[str]) -> Namespace:
        """Return what the flags that this parser has say; the others are left to a later reading."""
        return self.parse_known_args(self._spelled(argv), Namespace(given={}))[0]

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has to say as the user's error."""
        stray = message.startswith("unrecognized")
        first = "a config or a run's folder is the first word or comes after --config; " if stray else ""
        raise ConfigError(f"{message}; {first}--help lists all flags")

    def _options(self) -> dict[str, str]:
        return {_canonical(option): option for option in self._option_string_actions}

    def _spelled(self, argv: Sequence[str]) -> list[str]:
        known = self._options()
        options = [known.get(_canonical(word), "") if word.startswith("--") else "" for word in argv]
        return [option + word[len(option) :] for option, word in zip(options, argv, strict=True)]


def build_parser(program: str, description: str, kinds: Kinds) -> Parser:
    """Return a parser of the flags that decide which fields there are: the file and the kinds' names."""
    parser = Parser(program, description, comes_with(kinds))
    parser.add_argument(
        "--config", metavar="FILE",
        help="JSON settings, in sections or in the published flat form, or a run's output folder; the first word may "
        "be it without the flag",
    )
    text = "any setting by its dotted key, as matcher.depth=4"
    parser.add_argument("--set", metavar="KEY=VALUE", action=_Set, default=SUPPRESS, help=text)
    for kind, name in DEFAULT_KINDS.items():
        form: dict[str, Any] = {"metavar": "NAME", "help": f"name of the {kind} (default: {name})"}
        parser.add_argument(f"--{kind}", action=_Leaf, key=f"{kind}.name", kind=str, **form)
    for key, name in IMPLIED.items():
        kind, _, leaf = key.partition(".")
        field = kinds[kind](name).model_fields[leaf]
        text = f"{field.description} (chooses --{kind} {name}; off takes it out)"
        form = {"metavar": _metavar(field.annotation), "help": text}
        parser.add_argument(f"--{leaf}", action=_Leaf, key=key, kind=str, **form)
    return parser


def add_commands(parser: Parser, version: str) -> None:
    """Add the flags that ask for something else than a whole run."""
    add = parser.add_argument
    add("--dry_run", action="store_true", help="build everything, take one batch, write nothing")
    add("--print-config", action="store_true", help="print the settings and where they came from")
    add("--version", action="version", version=f"%(prog)s {version}", help="print the version")
    add("--help", "-h", action="help", help="print this")


def add_leaves(parser: Parser, types: Mapping[str, type[Section]]) -> None:
    """Add the seed's flag and, in groups, one for each leaf of the given sections."""
    _add(parser, "seed", Run.model_fields["seed"])
    count = Counter(leaf for kind in types.values() for leaf in kind.model_fields)
    for name, kind in types.items():
        group = parser.add_argument_group(name, (kind.__doc__ or "").partition("\n")[0])
        for leaf, field in kind.model_fields.items():
            is_taken = name in DEFAULT_KINDS and (count[leaf] > 1 or leaf == "name" or f"{name}.{leaf}" in IMPLIED)
            if not is_taken and _is_plain(field.annotation):
                _add(group, f"{name}.{leaf}", field)


def _add(group: Any, key: str, field: FieldInfo) -> None:
    kind = field.annotation
    form: dict[str, Any] = {"metavar": _metavar(kind)}
    if kind is bool:
        form |= {"nargs": "?", "const": "true"}
    elif get_origin(kind) is tuple:
        form["nargs"] = "*" if Ellipsis in get_args(kind) else len(get_args(kind))
    default = "none" if field.is_required() else _shown(field.get_default(call_default_factory=True))
    text = f"{field.description or ''} (default: {default})".replace("%", "%%")
    group.add_argument(f"--{key.rpartition('.')[2]}", action=_Leaf, key=key, kind=kind, help=text, **form)


class _Leaf(Action):
    """Puts the value of a flag among the leaves given on the command line."""

    def __init__(self, key: str, kind: Any, **form: Any) -> None:
        super().__init__(default=SUPPRESS, **form)
        self.key, self.kind = key, kind

    def __call__(
        self, _: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None
    ) -> None:
        namespace.given[self.key] = Given(_plain(values, self.kind), str(option))


class _Set(Action):
    """Puts a `section.field=value` among the leaves; the value is JSON where it parses, else a text."""

    def __call__(
        self, _: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None
    ) -> None:
        key, equals, text = values.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {values}: should be KEY=VALUE, as in --set matcher.depth=4")
        namespace.given |= flatten({key: _json(text)}, f"{option} {key}")


def _plain(text: Any, kind: Any) -> Any:
    """The plain value that the words of a flag stand for; what cannot be read stays text, refused later."""
    if isinstance(text, list):
        inner = get_args(kind)[0]
        return [
            _plain(word, get_args(inner)[0] if get_origin(inner) is Annotated else inner) for word in text
        ]
    if kind is str or get_origin(kind) is Literal:
        return text
    if kind is float:
        # JSON has no .5 and no 1.
        try:
            return float(text)
        except ValueError:
            return text
    return _json(text.lower() if kind is bool else text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _is_plain(kind: Any) -> bool:
    is_section = isinstance(kind, type) and issubclass(kind, Section)
    return not is_section and get_origin(kind) is not dict


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return {bool: "true|false", int: "N", float: "X"}.get(kind, "VALUE")


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    return (str(value).lower() if isinstance(value, bool) else str(value)) or "''"


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, of one dash or two; a negative number is a value."""
    return word.startswith("-") and word.lstrip("-")[:1].isalpha() and word.lstrip("-").lower() not in ("inf", "nan")


def _canonical(word: str) -> str:
    return word.partition("=")[0].replace("-", "_")


def _name(flag: str) -> str:
    return _canonical(flag).lstrip("_")


def _unknown(flag: str, known: Mapping[str, str]) -> str:
    name = _name(flag)
    published = MEANING.get(name)
    here = [f"--{key.rpartition('.')[2]}" for key in published.keys] if published else []
    if here and all(option in known.values() for option in here):
        return f"{flag} is a published flag; here it is {' and '.join(here)}"
    if name in WITHOUT_EFFECT:
        return f"{flag} is a published flag; leave it out: {WITHOUT_EFFECT[name]}"
    if name in ONLY:
        return f"{flag} is a published flag that cannot be honoured: {ONLY[name].otherwise}"
    told = suggest(name, {_name(option): option for option in known.values()})
    if told:
        return f"{flag} is {told}"
    return f"{flag} is not a flag: {did_you_mean(flag, known.values(), '--help lists all flags')}"
