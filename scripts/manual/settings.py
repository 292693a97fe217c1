"""The page of settings: every leaf of every section, matcher and objective, from the schema itself."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from inspect import isabstract
from pathlib import Path
from typing import Any

import model
import model.objective
from config.assemble import COMMON
from config.errors import ConfigError
from config.files import NOTE, Reader
from config.leaves import DEFAULT_KINDS, chosen
from config.legacy import MEANING, ONLY, WITHOUT_EFFECT
from config.schema import Run
from config.sections import Section
from model.matcher import find
from model.objective import find_objective
from scripts.manual.markdown import code, plain, table
from scripts.manual.programs import ROOT, parser_of

ENTRY = "train/itm.py"
"""The settings are the same for every entry; this one's parser tells which flag sets which."""
HEAD = ("setting", "values", "default", "meaning")
PASSING = " †"
"""Marks a setting that does not belong to the run's identity."""
FINDERS: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "matcher": (model, find), "objective": (model.objective, find_objective),
}  # fmt: skip
INTRODUCTION = """# Settings

Every setting of a run, from the schema that checks it. A config file groups settings in sections: `data.conf_th` is
`conf_th` in the section `data`. Its flag is the last part, `--conf_th 0.3`; where there is no such flag, the table
says `--set`, which reaches every setting.

A dagger † marks settings that a run may be continued with another value of. All others belong to the run: with another
value it is another run, and wants another output folder. Only a larger `num_train_steps` goes on with the same run,
with `--extend`. How files and flags are merged: [training](../training.md).

"""


def settings_page() -> str:
    """Return the page."""
    parts = [INTRODUCTION, "## The run\n\n", _table(Run, "", ("seed",))]
    for name, section in COMMON.items():
        parts += [f"\n## {name}\n\n{_sentence(section)}\n\n", _table(section, f"{name}.")]
    for kind, default in DEFAULT_KINDS.items():
        for name in names(kind):
            note = f" The default {kind}." if name == default else ""
            section = FINDERS[kind][1](name).settings
            words = f"Chosen by `--{kind} {name}`.{note} {_sentence(section)}"
            parts += [f"\n## {kind}: {name}\n\n{words}\n\n", _table(section, f"{kind}.", kind=(kind, name))]
    return "".join(parts)


def configs_page() -> str:
    """Return the page of config files and of the keys of the published flat form."""
    rows = []
    for path in sorted((ROOT / "config").glob("*.json")):
        leaves = Reader().read(path)
        kinds = [code(chosen(leaves, kind).value) for kind in DEFAULT_KINDS]
        rows.append([code(f"config/{path.name}"), *kinds, plain(_note(path))])
    published = [[code(key), ", ".join(map(code, meaning.keys))] for key, meaning in MEANING.items()]
    published += [[code(key), f"no effect: {plain(why)}"] for key, why in WITHOUT_EFFECT.items()]
    published += [[code(key), f"only {', '.join(code(value) for value in allowed.values)}: {plain(allowed.otherwise)}"]
                  for key, allowed in ONLY.items()]
    return (
        "# Config files\n\nEvery file of `config/`, and how the published flat form is read. "
        "Files that begin with `smoke-` are for tests.\n\n## Files\n\n"
        + table(("file", "matcher", "objective", "what it is"), rows)
        + "\n## Keys of the published flat form\n\n"
        + table(("published key", "here"), published)
    )


@cache
def names(kind: str) -> tuple[str, ...]:
    """Return the names of all matchers, or of all objectives."""
    package, finder = FINDERS[kind]
    found = []
    for module in pkgutil.iter_modules(package.__path__):
        with suppress(ConfigError):
            if not isabstract(finder(module.name)):
                found.append(module.name)
    return tuple(found)


@cache
def flags_of(kind: tuple[str, str] | None = None) -> dict[str, str]:
    """Return the flag of each dotted key that has one, under a choice such as ("matcher", "laps")."""
    words = [f"--{kind[0]}", kind[1]] if kind else []
    return {action.key: action.option_strings[0] for action in parser_of(ENTRY, words)._actions
            if hasattr(action, "key")}


def leaves_of(section: type[Section], prefix: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield the dotted key, the JSON schema and the part in the run's identity of each leaf."""
    schema = section.model_json_schema()
    for name, field in section.model_fields.items():
        extra = field.json_schema_extra
        passing = isinstance(extra, dict) and extra.get("identity") is False
        leaf = schema["properties"][name]
        if not ("$ref" in leaf or name in DEFAULT_KINDS):
            yield prefix + name, leaf | {"required": field.is_required()}, not passing


def _table(section: type[Section], prefix: str, only: tuple[str, ...] = (),
           kind: tuple[str, str] | None = None) -> str:
    rows = []
    flags = flags_of(kind)
    for key, leaf, decides in leaves_of(section, prefix):
        if (only and key not in only) or key == f"{prefix}name":
            continue
        default = "required" if leaf["required"] else code(_shown(leaf.get("default")))
        meaning = plain(leaf.get("description", ""))
        if key not in flags:
            meaning += f" (no flag of its own: {code(f'--set {key}=VALUE')})"
        rows.append([code(key) + ("" if decides else PASSING), values(leaf), default, meaning])
    return table(HEAD, rows)


def values(leaf: dict[str, Any]) -> str:
    """Return in words which values a leaf's JSON schema allows."""
    if "const" in leaf:
        return code(leaf["const"])
    if "enum" in leaf:
        return ", ".join(map(code, leaf["enum"]))
    if "anyOf" in leaf:
        return " or ".join(values(one) for one in leaf["anyOf"])
    kind = {"integer": "integer", "number": "number", "boolean": "true, false", "string": "text", "array": "list",
            "object": "object", "null": "null"}[leaf["type"]]
    if "items" in leaf:
        kind = f"list of: {values(leaf['items'])}"
    elif "prefixItems" in leaf:
        kind = "; ".join(values(one) for one in leaf["prefixItems"])
    limits = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    found = [f"{sign} {leaf[name]:g}" for name, sign in limits if name in leaf and abs(leaf[name]) < 1e15]
    return " ".join([kind, ", ".join(found)]).strip()


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "''" if value == "" else "none" if value in ([], None) else str(value)


def _note(path: Path) -> str:
    found = json.loads(path.read_text("utf-8")).get(NOTE, "")
    return found if isinstance(found, str) else ""


def _sentence(section: type[Section]) -> str:
    text = " ".join((section.__doc__ or "").split("\n\n")[0].split()).rstrip(".")
    return plain(text[:1].upper() + text[1:]) + "."
