"""The matcher and the objective of a run, also where a setting implies them: `--IAIS singular`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from config.errors import ConfigError
from config.leaves import DEFAULT_KINDS, IMPLIED, Leaves, chosen, is_off
from config.sections import Named

Kinds = Mapping[str, Callable[[str], type[Named]]]
"""Finds a `matcher` and an `objective` by name; a KeyError or ConfigError lists the known names."""


def with_implied(leaves: Leaves, kinds: Kinds) -> Leaves:
    """Return the leaves with the kinds that `IMPLIED` settings choose written out.

    Where such a setting is off, it goes, and so does what only its kind could be told.
    """
    leaves = leaves | {f"{kind}.name": chosen(leaves, kind) for kind in DEFAULT_KINDS if f"{kind}.name" in leaves}
    for key, name in IMPLIED.items():
        if key in leaves and is_off(leaves[key].value):
            kind = key.partition(".")[0]
            default = kinds[kind](DEFAULT_KINDS[kind]).model_fields
            idle = {f"{kind}.{field}" for field in kinds[kind](name).model_fields if field not in default}
            leaves = {leaf: given for leaf, given in leaves.items() if leaf not in idle}
    return leaves


def refuse_contradiction(leaves: Leaves) -> None:
    """Raise ConfigError where one place names the default kind and a setting that chooses another."""
    for key in IMPLIED:
        kind = key.partition(".")[0]
        name, given = leaves.get(f"{kind}.name"), leaves.get(key)
        if name is None or given is None or name.value != DEFAULT_KINDS[kind] or is_off(given.value):
            continue
        if name.where == given.where or (name.where.startswith("--") and given.where.startswith("--")):
            raise ConfigError(
                f"{kind}.name = {name.value!r} ({name.where}) and {key} = {given.value!r} ({given.where}) contradict "
                "each other: leave one of them out"
            )


def comes_with(kinds: Kinds) -> dict[str, str]:
    """Return what to say of each flag that only an implied kind has, for when another one is chosen."""
    told: dict[str, str] = {}
    for key, name in IMPLIED.items():
        kind, _, implying = key.partition(".")
        told |= {leaf: f"--{leaf} comes with --{implying}; give that too" for leaf in kinds[kind](name).model_fields}
    return told
