"""Merges defaults, `extends`, files and flags, in that order, into one validated, frozen Run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.errors import ConfigError
from config.files import Reader
from config.kinds import Kinds, refuse_contradiction, with_implied
from config.leaves import DEFAULT_KINDS, Given, Leaves, chosen, expand, flatten, merge, nest
from config.schema import Run
from config.sections import Named, Section
from config.validation_messages import describe_error

COMMON: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Run.model_fields.items()
    if name not in DEFAULT_KINDS
    and isinstance(field.annotation, type)
    and issubclass(field.annotation, Section)
}
"""The sections that every run has; the matcher's and the objective's are found by their names."""


@dataclass(frozen=True)
class Resolved:
    """A run, and for each of its leaves the place that gave it: `default`, a file or a flag."""

    run: Run
    origins: dict[str, str]


def load(path: str | Path | None, overrides: Mapping[str, Any], kinds: Kinds) -> Run:
    """Return the run that a config file (or None) and overrides (dotted key -> plain value) describe.

    Raises ConfigError, one line naming the key, its value, where it was given and the remedy.
    """
    written = Reader().read(path) if path else {}
    return resolve(merge(written, flatten(overrides, "override")), kinds).run


def resolve(written: Leaves, kinds: Kinds) -> Resolved:
    """Lay what was written over the defaults, check it, and keep the origin of every leaf."""
    refuse_contradiction(written)
    written = with_implied(written, kinds)
    types = section_types(written, kinds)
    leaves = expand(merge(_defaults(types), written))
    run = _build(leaves, types)
    origins = {key: leaves[key].where if key in leaves else "default" for key in flatten(run.dump(), "")}
    return Resolved(run, origins)


def section_types(written: Leaves, kinds: Kinds) -> dict[str, type[Section]]:
    """Return the type of each section, the matcher's and the objective's as chosen by what was written."""
    return COMMON | {kind: _find(kind, chosen(written, kind), kinds) for kind in DEFAULT_KINDS}


def _find(kind: str, name: Given, kinds: Kinds) -> type[Named]:
    if not isinstance(name.value, str):
        raise ConfigError(f"{kind}.name = {name.value!r} ({name.where}): should be a name")
    try:
        return kinds[kind](name.value)
    except (KeyError, ConfigError) as error:
        raise ConfigError(f"{kind}.name = {name.value!r} ({name.where}): {error.args[0]}") from None


def _defaults(types: Mapping[str, type[Section]]) -> Leaves:
    # model_construct fills in the defaults and leaves out the fields that have none.
    tree = {name: kind.model_construct().model_dump(mode="json") for name, kind in types.items()}
    return flatten({"seed": Run.model_fields["seed"].default} | tree, "default")


def _build(leaves: Leaves, types: Mapping[str, type[Section]]) -> Run:
    tree = nest(leaves)
    parts: dict[str, Any] = {}
    for name, value in tree.items():
        try:
            # JSON mode is strict about types ("8" is no number) yet takes a list where a tuple is meant.
            parts[name] = (
                types[name].model_validate_json(json.dumps(value), strict=True) if name in types else value
            )
        except ValidationError as error:
            raise describe_error(error, name, leaves, types) from None
    try:
        return Run.model_validate(parts, strict=True)
    except ValidationError as error:
        raise describe_error(error, "", leaves, types) from None
