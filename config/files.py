"""Config files read into leaves: JSON with `extends` at any level and `_note` keys, or the flat published form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from config import legacy
from config.errors import ConfigError
from config.hints import did_you_mean
from config.leaves import Given, Leaves, expand_text, merge
from config.paths import CONFIG, Kind, inspect_path

NOTE = "_note"
EXTENDS = "extends"
OUTPUT = "output.output_dir"


class Reader:
    """Reads one config file with all it extends, and gathers what is to be said about them.

    `extends` names a file, relative to the file that says it, whose content lies below the object it stands
    in: at the top a whole config, in a section that section alone (a model config, for example).
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        """One line for each published key that has no effect."""

    def read(self, path: str | Path, prefix: str = "", trail: tuple[Path, ...] = ()) -> Leaves:
        """Return the leaves of a file.

        A run's output folder stands for the config in it, and for itself as the output folder.

        Raises ConfigError where a file is missing, is no JSON object, repeats a key, or extends itself.
        """
        path, run = _file_of(Path(path)) if not trail else (Path(path), None)
        place = path.resolve()
        if place in trail:
            chain = " -> ".join(step.name for step in (*trail[trail.index(place) :], place))
            raise ConfigError(f"{path}: files extend each other in a circle ({chain}): remove one 'extends'")
        tree = _parse(path)
        if not prefix and legacy.is_flat(tree):
            tree, notes = legacy.translate(tree, path)
            self.notes += notes
        leaves = self._layer(tree, path, prefix, (*trail, place))
        if run:  # it may have been moved since it was trained
            leaves[OUTPUT] = Given(str(run), str(run))
        return leaves

    def _layer(self, tree: dict[str, Any], path: Path, prefix: str, trail: tuple[Path, ...]) -> Leaves:
        leaves: Leaves = {}
        if EXTENDS in tree:
            if not isinstance(tree[EXTENDS], str):
                raise ConfigError(
                    f"{path}: {prefix}extends = {tree[EXTENDS]!r}: should be the name of a file"
                )
            below = expand_text(tree[EXTENDS], f"{prefix}extends", str(path))
            leaves = self.read(path.parent / below, prefix, trail)
        own: Leaves = {}
        for key, value in tree.items():
            if key in (EXTENDS, NOTE):
                continue
            if isinstance(value, dict):
                own |= self._layer(value, path, f"{prefix}{key}.", trail)
            else:
                own[prefix + key] = Given(value, str(path))
        return merge(leaves, own)


def _file_of(path: Path) -> tuple[Path, Path | None]:
    """The config file that a path stands for, and the run that it is of where a folder was named."""
    if not path.is_dir():
        return path, None
    place, remedy = inspect_path(path), "name a config file or the output folder of a run"
    if place.kind is Kind.RUN:
        return path / CONFIG, path
    if place.leads == (Kind.CHECKPOINT,) and inspect_path(path.absolute().parent).kind is Kind.RUN:
        remedy = f"name the run, {path.absolute().parent}"
    if place.kind is Kind.CHECKPOINT:
        remedy = ("name the run's folder or a config file here, and the checkpoint with --which (evaluate.py, mine.py) "
                  "or --resume (training)")
    raise ConfigError(f"{path}: is {place.words}; {remedy}")


def _parse(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        near = inspect_path(path).advice("check the path", Kind.SETTINGS, Kind.RUN)
        hint = did_you_mean(path.stem, [other.stem for other in path.parent.glob("*.json")], near)
        raise ConfigError(f"{path}: there is no such config file; {hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        other = "" if path.suffix == ".json" else f"is {inspect_path(path).words}; name a config file"
        raise ConfigError(f"{path}: {other or 'the config file is not UTF-8 text; save it as UTF-8'}") from None
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigError(f"{place}: not valid JSON ({error.msg}); mend that line") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: should hold one JSON object, {{...}}; write the settings into one")
    return tree


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"the key {twice!r} stands twice in one object; remove one of them")
    return tree
