"""Pre-trained towers of `transformers`, from folders or the hub, resolved before a model is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from config.schema import Run
from config.wording import pluralise
from model.matcher import Matcher
from model.parts.backbone import HAS_CLS_KEY, configured, own_settings, without_pooler
from train.checkpointing.checkpoint import first_line, read_run

SIDES = ("vision", "text")
CONFIG = "config.json"
SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
PATIENCE_S = 5
WANTED = "config.json and model.safetensors"
HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
TRAINING = re.compile(r".*dropout.*|drop_path_rate")
"""Settings of training, which may differ from those that the weights were made with."""
UNBUILT = re.compile(rf"{HAS_CLS_KEY}|initializer_.*|encoder_stride|pooler_.*|projection_dim|use_cache|is_decoder|"
                     r"add_cross_attention|[be]os_token_id|tie_word_embeddings|use_mask_token|classifier_dropout")
"""Settings of what is not built here, or not by these weights."""
Plain = dict[str, Any]


def resolve_towers(run: Run, trained: Path | None = None) -> Run:
    """The run with the settings of its pre-trained towers written out: it builds the model without their folders.

    A `matcher.vision` or `matcher.text` that says no more than a type, and settings of training, takes the sizes of
    the folder; one that says more must agree with it.

    Args:
        trained: a checkpoint that was trained from these towers; it says what they are, and their folders need not be
            there any more.

    Raises:
        ConfigError: the matcher has no such tower, or a whole checkpoint is named too.
        DataError: there are no such weights, they cannot be had, or they are of another shape.
    """
    changed: dict[str, Any] = {}
    for side, name in _named(run).items():
        if trained is not None:
            changed |= _saved(trained, side)
            continue
        if run.weights.checkpoint:
            told = "weights.checkpoint holds the towers already"
            raise ConfigError(f'weights.{side}={name}: {told}; leave one of the two out (--vision "" --text "")')
        wanted = getattr(run.matcher, side, None)
        if not isinstance(wanted, dict):
            raise ConfigError(f"weights.{side}={name}: matcher {run.matcher.name} has no {side} tower; leave it out")
        changed[side] = _agreed(
            wanted, read_tower_config(fetch_tower(name, side), side), f"weights.{side}={name}", side
        )
    if not changed:
        return run
    matcher = type(run.matcher).model_validate(run.matcher.model_dump() | changed)
    return run.model_copy(update={"matcher": matcher})


def load_towers(matcher: Matcher, run: Run) -> None:
    """Put the pre-trained weights of a run (see `resolve_towers`) into its matcher's towers; every tensor is filled.

    Raises:
        DataError: the weights are not whole, or hold more than tensors.
    """
    for side, name in _named(run).items():
        tower = getattr(matcher, side).tower
        tower.load_state_dict(_weights(tower, fetch_tower(name, side), f"weights.{side}={name}"))


def _saved(checkpoint: Path, side: str) -> dict[str, Plain]:
    """The tower's settings that a checkpoint notes; nothing for bare weights."""
    found = read_run(checkpoint).get("matcher", {})
    return {side: found[side]} if side in found else {}


def fetch_tower(name: str, side: str) -> Path:
    """The folder of a tower: itself, or what the hub has under that name, kept in the hub's own cache.

    Raises:
        DataError: there is none, or the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(name):
        raise DataError(f"weights.{side}={name}: no such folder; name one that holds {WANTED}, or a model of the hub")
    from huggingface_hub import HfApi, snapshot_download

    for weights in (SAFE, PICKLED):
        with suppress(OSError, ValueError):
            kept = Path(snapshot_download(name, allow_patterns=[CONFIG, *weights], local_files_only=True))
            if (kept / CONFIG).exists() and _has_weights(kept):
                return kept
    try:
        # Asked with a time limit, which a download by itself does not have where the other side is silent.
        listed = HfApi().model_info(name, timeout=PATIENCE_S)
        files = {file.rfilename for file in listed.siblings or ()}
        offered = next((names for names in (SAFE, PICKLED) if files & set(names)), ())
        if offered and CONFIG in files:
            return Path(snapshot_download(name, allow_patterns=[CONFIG, *offered]))
        reason = f"it holds no {CONFIG} with {SAFE[0]} or {PICKLED[0]}"
    except Exception as error:  # the hub's library lets the errors of its transport through, whatever that is
        reason = first_line(error)
    raise DataError(
        f"weights.{side}={name}: not on this machine and the hub cannot be reached or does not have it ({reason}); "
        f"download {WANTED} of it into a folder and name that folder"
    )


def read_tower_config(folder: Path, side: str) -> Plain:
    """What the `config.json` of a folder says of a tower: its type, and settings that differ from the type's own.

    Raises:
        DataError: there is none, or it describes no tower of this side.
    """
    key, path = f"weights.{side}={folder}", folder / CONFIG
    if not path.is_file() or not _has_weights(folder):
        raise DataError(f"{key}: lacks {CONFIG} or weights; name a folder that holds {WANTED}")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not whole ({first_line(error)}); copy it again") from error
    nested = plain.get(f"{side}_config") if isinstance(plain, dict) else None
    plain = nested if isinstance(nested, dict) else plain
    if not isinstance(plain, dict) or not isinstance(plain.get("model_type"), str):
        raise DataError(f"{path}: names no model_type; is it the config of a {side} tower of transformers?")
    if plain.get("position_embedding_type", "absolute") != "absolute":
        told = f"position_embedding_type = {plain['position_embedding_type']!r}"
        raise DataError(f"{path}: {told} cannot be computed here; name weights with absolute positions")
    try:
        kind = plain["model_type"]
        known = {n: plain[n] for n in own_settings(kind) if plain.get(n) is not None} | {"model_type": kind}
        known |= {name: _one(known[name]) for name in ("image_size", "patch_size") if name in known}
        theirs, usual = (_settings(configured(given, str(path))) for given in (known, {"model_type": kind}))
    except (ConfigError, KeyError) as error:
        raise DataError(f"{path}: is no {side} tower that can be used here ({first_line(error)})") from error
    differing = {name: value for name, value in theirs.items() if value != usual[name] and not UNBUILT.fullmatch(name)}
    return {"model_type": kind} | differing


def _agreed(wanted: Mapping[str, Any], theirs: Plain, key: str, side: str) -> Plain:
    """The dict of a run's tower, filled from its weights where it says nothing about sizes."""
    said = {name for name in wanted if name != "model_type" and not _is_free(name)}
    kind = wanted.get("model_type")
    if kind == theirs["model_type"] and not said:
        return theirs | dict(wanted)
    if kind == theirs["model_type"]:
        ours = _settings(configured({n: v for n, v in wanted.items() if n != HAS_CLS_KEY}, f"matcher.{side}"))
        given = _settings(configured(theirs, key))
        unlike = [name for name in given if given[name] != ours[name] and not _is_free(name)]
        pairs = [f"{name} {given[name]} there, {ours[name]} in this run" for name in unlike]
    else:
        pairs = [f"model_type {theirs['model_type']} there, {kind} in this run"]
    if pairs:
        remedy = f'set matcher.{side} to {{"model_type": "{theirs["model_type"]}"}} to take its sizes'
        more = " ..." if len(pairs) > 4 else ""
        raise DataError(f"{key}: another tower ({'; '.join(pairs[:4])}{more}); {remedy}, or name other weights")
    return dict(wanted)


def _weights(tower: Any, folder: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a folder under the names of `tower`; `transformers` knows the names of all its years."""
    with _quiet():
        try:
            found, report = type(tower).from_pretrained(
                folder, config=tower.config, dtype=torch.float32, local_files_only=True, weights_only=True,
                output_loading_info=True, **without_pooler(type(tower)),
            )  # fmt: skip
        except Exception as error:  # the library raises what its reader of the day stumbles over
            raise DataError(f"{key}: not whole weights ({first_line(error)}); copy or save them again") from error
    lacking = sorted({*report["missing_keys"], *(str(name) for name in report["mismatched_keys"])})
    if lacking:
        more = " ..." if len(lacking) > 3 else ""
        told = f"lacks {pluralise(len(lacking), 'tensor')} of the tower ({', '.join(lacking[:3])}{more})"
        raise DataError(f"{key}: {told}; name whole weights of a {tower.config.model_type}")
    return dict(found.state_dict())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own talk and bars: what matters is told here."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _named(run: Run) -> dict[str, str]:
    """The sides whose weights the run names."""
    return {side: getattr(run.weights, side) for side in SIDES if getattr(run.weights, side)}


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in (*SAFE[:2], *PICKLED[:2]))


def _settings(config: Any) -> Plain:
    """The settings of a model type's own, as JSON has them."""
    return json.loads(json.dumps({name: getattr(config, name) for name in own_settings(config.model_type)}))


def _is_free(name: str) -> bool:
    """Whether a setting may differ from that of the weights."""
    return bool(TRAINING.fullmatch(name) or UNBUILT.fullmatch(name))


def _one(value: Any) -> Any:
    """`[224, 224]` as 224: pictures and patches are square here."""
    return value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value
