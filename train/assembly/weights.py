"""Weights to start from, to evaluate with or to resume: whether they fit, and a report of what was loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from config.errors import DataError
from config.leaves import flatten
from config.schema import Run
from model.loading import Loaded, RankHead, load_part, load_to_score, load_what_fits
from model.matcher import Matcher
from train.checkpointing.checkpoint import read_facts, read_run, read_weights

TRAINING = re.compile(r"(.*\.)?(name|\w*dropout\w*|drop_path_rate|recompute_\w+|(caption|ratio)_weight)")
"""Settings of a matcher that change no score of trained weights."""
LEAST_SHARE = 0.5
"""Weights that fill less of a model than this are no plain part of it."""
GROUPING = ("optim", "rate_factors", "decay_all", "decay_embedding_norms", "step_twice", "use_apex")
"""Settings of the update that say what an optimizer keeps, and of which parameters."""


class LoadReport(NamedTuple):
    """The vocabulary that weights were trained with, where they tell it, what is to be said of them, and what share of
    the model's parameters they are."""

    vocab_hash: str | None
    notes: tuple[str, ...]
    share: float = 1.0


def load_initial_weights(matcher: Matcher, run: Run) -> LoadReport:
    """Put the weights that a run starts from into its matcher.

    Raises:
        DataError: they cannot be read, or are not plainly a part of the matcher and the run does not allow that.
    """
    path, rank_head = Path(run.weights.checkpoint), run.weights.rank_head_init
    name, state = f"weights.checkpoint={path}", read_weights(path)
    if not run.weights.strict_checkpoint:
        return _put(load_what_fits, matcher, state, path, name, rank_head)
    check_system(path, run, name)
    try:
        brought = _put(load_part, matcher, state, path, name, rank_head)
        if brought.share < LEAST_SHARE:
            told = f"that is hardly a part of this {matcher.config.name}: name other weights"
            raise DataError(f"{brought.notes[0]}; {told}")
    except DataError as error:
        raise DataError(f"{error}; --strict_checkpoint false takes what fits all the same") from error
    return brought


def load_for_evaluation(matcher: Matcher, run: Run, path: Path, rank_head: RankHead = "if_missing") -> LoadReport:
    """Put whole weights into a matcher that only scores.

    Raises:
        DataError: they cannot be read, are of another matcher, or anything that scores need is missing or left over.
    """
    check_system(path, run, str(path))
    brought = _put(load_to_score, matcher, read_weights(path), path, str(path), rank_head)
    unlike = find_differences(read_run(path).get("matcher", {}), run.matcher.model_dump(mode="json"))
    note = [f"{path}: was trained with other settings than it is measured with: {', '.join(unlike)}"] if unlike else []
    return brought._replace(notes=(*brought.notes, *note))


def check_resumable(path: Path, run: Run) -> str | None:
    """The vocabulary of a checkpoint that a run may go on from.

    Raises:
        DataError: it is of another matcher, or its optimizer keeps other things than that of this run.
    """
    name = f"resume={path}"
    check_system(path, run, name)
    grouping = {key: value for key, value in read_run(path).get("optim", {}).items() if key in GROUPING}
    unlike = find_differences(grouping, run.optim.model_dump(mode="json"))
    if unlike:
        raise DataError(f"{name}: its optimizer was set up otherwise: {', '.join(unlike)}; give the same settings, or "
                        f"start from its weights alone with --checkpoint {path} in a new --output_dir")  # fmt: skip
    return read_facts(path).get("vocab_hash")


def check_system(path: Path, run: Run, name: str) -> None:
    """Raise DataError where a checkpoint says that it is of another matcher than the run's."""
    there = read_run(path).get("matcher", {}).get("name", run.matcher.name)
    if there != run.matcher.name:
        raise DataError(f"{name}: these are weights of matcher {there}, and this run's is {run.matcher.name}; name "
                        f"weights of a {run.matcher.name}, or the config of the run that made these")


def find_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The settings that both have and that differ, each as `key theirs (here ours)`; not those of training alone."""
    there, here = ({key: given.value for key, given in flatten(tree, "").items()} for tree in (theirs, ours))
    return [f"{key} {there[key]} (here {here[key]})" for key in there
            if key in here and there[key] != here[key] and not TRAINING.fullmatch(key)]  # fmt: skip


def _put(
    load: Callable[..., Loaded], matcher: Matcher, state: Mapping[str, Tensor], path: Path, name: str,
    rank_head: RankHead,
) -> LoadReport:
    loaded = load(matcher, matcher.config.name, state, name, rank_head)
    whole = not loaded.missing and not loaded.ignored
    notes = () if whole else (f"{name}: {loaded.told()}",)
    return LoadReport(read_facts(path).get("vocab_hash"), notes, loaded.share)
