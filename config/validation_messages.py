"""Pydantic's errors in one line: the key, its value, where it was set, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.errors import ConfigError
from config.foreign_names import suggest
from config.hints import did_you_mean
from config.leaves import Leaves
from config.legacy import MEANING
from config.schema import Run
from config.sections import Section

Types = Mapping[str, type[Section]]


def describe_error(error: ValidationError, section: str, leaves: Leaves, types: Types) -> ConfigError:
    """Return the first thing wrong with a section ('' = with the run as a whole) as the user's error."""
    first, *others = error.errors(include_url=False)
    more = f" (and {len(others)} more)" if others else ""
    return ConfigError(_line(first, section, leaves, types) + more)


def _line(error: ErrorDetails, section: str, leaves: Leaves, types: Types) -> str:
    path = [str(part) for part in (section, *error["loc"]) if part != "" and not isinstance(part, int)]
    key = ".".join(path)
    match error["type"]:
        case "clash":
            places = ", ".join(f"{key}: {_where(key, leaves)}" for key in error["ctx"]["keys"])
            return f"{error['ctx']['text']} ({places})"
        case "extra_forbidden":
            return f"{key} ({_where(key, leaves)}) is not a known key: {_hint(path, types)}"
        case "missing":
            return f"{key} is missing: give it in the config file or with --set {key}=VALUE"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    value = "" if key in types else f" = {error['input']!r}"
    return f"{key}{value} ({_where(key, leaves)}): {message}{_meaning(path, types)}"


def _where(key: str, leaves: Leaves) -> str:
    """Return the place that gave a key, or a leaf below it, or else the value it is in."""
    while key:
        places = [given.where for name, given in leaves.items() if name == key or name.startswith(f"{key}.")]
        if places:
            return next((place for place in places if place != "default"), "default")
        key = key.rpartition(".")[0]
    return "default"


def _hint(path: list[str], types: Types) -> str:
    """Return what an unknown key was meant to be; one at the top may have been meant for a section."""
    if len(path) == 1 and path[0] in MEANING:
        return f"a published key; in sections it is {' and '.join(MEANING[path[0]].keys)}"
    fields = [f"{name}.{field}" for name, kind in types.items() for field in kind.model_fields]
    told = suggest(path[-1], {field.rpartition(".")[2]: field for field in reversed(fields)})
    if told:
        return told
    top = [*Run.model_fields, "extends"] if len(path) == 1 else []
    known = top or [field for field in fields if field.startswith(f"{path[0]}.")]
    return did_you_mean(".".join(path), [*top, *fields], f"known are {', '.join(known)}")


def _meaning(path: list[str], types: Types) -> str:
    model, name = (types[path[0]], path[1]) if len(path) > 1 else (Run, path[0])
    field = model.model_fields.get(name)
    return f" ({field.description})" if field and field.description else ""
