"""Settings as leaves: a flat map of dotted keys, each with its value and the place that set it.

Layers of settings are merged in this form, so that the last place wins leaf by leaf and every value keeps its
origin.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from config.errors import ConfigError

DEFAULT_KINDS = {"matcher": "uniter", "objective": "hinge"}
"""The two sections whose fields depend on a name, and the name each has when nothing else is said."""


IMPLIED = {"objective.IAIS": "iais"}
"""A setting that only one kind has, and that chooses it over the default one, as `--IAIS singular` does."""


class Given(NamedTuple):
    """A value and where it was given: `default`, a file or a flag."""

    value: Any
    where: str


Leaves = dict[str, Given]


def flatten(tree: Mapping[str, Any], where: str, prefix: str = "") -> Leaves:
    """Return the leaves of nested plain data; only objects are entered, lists are values."""
    leaves: Leaves = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, where, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = Given(value, where)
    return leaves


def nest(leaves: Leaves) -> dict[str, Any]:
    """Return the nested plain data that the leaves stand for: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, given in leaves.items():
        *path, leaf = key.split(".")
        node = tree
        for name in path:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key} ({given.where}): {name} was given as a value too: keep one of them")
        node[leaf] = given.value
    return tree


def merge(below: Leaves, above: Leaves) -> Leaves:
    """Return `below` with every leaf of `above` laid over it.

    A layer that chooses another matcher or objective starts that section anew: the fields of the one chosen
    before mean nothing to it.
    """
    merged = {key: given for key, given in below.items() if not _is_displaced(key, below, above)}
    return merged | above


def chosen(leaves: Leaves, kind: str) -> Given:
    """Return the name of the matcher or objective (`kind`) that the leaves choose."""
    default = DEFAULT_KINDS[kind]
    said = leaves.get(f"{kind}.name", Given(default, "default"))
    for key, name in IMPLIED.items():
        if key in leaves and key.startswith(f"{kind}."):
            value, where = leaves[key]
            if is_off(value):
                said = Given(default, where) if said.value == name else said
            elif said.value == default:
                said = Given(name, where)
    return said


def is_off(value: Any) -> bool:
    """Say whether an `IMPLIED` setting's value takes its kind out again: the default one is chosen then."""
    return value is None or value is False or value in ("off", "none", "")


def _is_displaced(key: str, below: Leaves, above: Leaves) -> bool:
    section = key.partition(".")[0]
    if section in DEFAULT_KINDS and f"{section}.name" in above:
        return chosen(above, section).value != chosen(below, section).value
    # An object laid over a plain value, or the other way round, replaces it: the types are judged later.
    return any(new.startswith(f"{key}.") or key.startswith(f"{new}.") for new in above)


def expand(leaves: Leaves) -> Leaves:
    """Return the leaves with each ${VAR} in a text replaced by the environment's value.

    Raises ConfigError naming the variable and the key when it is not set.
    """
    return {
        key: Given(_expanded(given.value, key, given.where), given.where) for key, given in leaves.items()
    }


def expand_text(text: str, key: str, where: str) -> str:
    """Return `text` with each ${VAR} replaced; `key` and `where` only serve the error's message."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise ConfigError(
                f"{key} = {text!r} ({where}): the variable {name} is not set; "
                f"export {name}=... or write the path out"
            )
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _expanded(value: Any, key: str, where: str) -> Any:
    if isinstance(value, str):
        return expand_text(value, key, where)
    if isinstance(value, list):
        return [_expanded(item, key, where) for item in value]
    return value
