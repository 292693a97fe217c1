"""The flat config of published UNITER runs, translated into sections by three tables.

`MEANING` says where a key went, `WITHOUT_EFFECT` why a key does nothing here, `ONLY` which values of a key
this program can honour. Nothing else decides anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import ConfigError
from config.foreign_names import suggest
from config.hints import did_you_mean
from config.leaves import is_off
from config.schema import Run


class Meaning(NamedTuple):
    """The dotted keys a published key sets, and how its value is written there."""

    keys: tuple[str, ...]
    write: Callable[[Any], Any]


class Allowed(NamedTuple):
    """The values of a published key that change nothing here, and why any other is refused."""

    values: tuple[Any, ...]
    otherwise: str


def _to(*keys: str, write: Callable[[Any], Any] = lambda value: value) -> Meaning:
    return Meaning(keys, write)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _precision(fp16: Any) -> Any:
    return {"True": "fp16", "False": "off"}.get(str(fp16), fp16)


MEANING: dict[str, Meaning] = {
    "train_txt_dbs": _to("data.train_txt_dbs", write=_listed),
    "train_img_dbs": _to("data.train_img_dbs", write=_listed),
    "train_txt_db": _to("data.train_txt_dbs", write=_listed),
    "train_img_db": _to("data.train_img_dbs", write=_listed),
    "val_txt_db": _to("data.val_txt_db"),
    "val_img_db": _to("data.val_img_db"),
    "test_txt_db": _to("data.test_txt_db"),
    "test_img_db": _to("data.test_img_db"),
    "txt_db": _to("data.test_txt_db"),
    "img_db": _to("data.test_img_db"),
    "compressed_db": _to("data.compressed_db"),
    "max_txt_len": _to("data.max_txt_len"),
    "conf_th": _to("data.conf_th"),
    "max_bb": _to("data.max_bb"),
    "min_bb": _to("data.min_bb"),
    "num_bb": _to("data.num_bb"),
    "n_workers": _to("data.n_workers"),
    "pin_mem": _to("data.pin_mem"),
    "negative_size": _to("negatives.negative_size"),
    "hard_neg_size": _to("negatives.hard_neg_size"),
    "optim": _to("optim.optim"),
    "learning_rate": _to("optim.learning_rate"),
    "betas": _to("optim.betas"),
    "weight_decay": _to("optim.weight_decay"),
    "grad_norm": _to("optim.grad_norm"),
    "warmup_steps": _to("optim.warmup_steps"),
    "num_train_steps": _to("optim.num_train_steps"),
    "train_batch_size": _to("optim.train_batch_size"),
    "fp16": _to("optim.precision", write=_precision),
    "valid_steps": _to("eval.valid_steps"),
    "full_val": _to("eval.full_val"),
    "inf_minibatch_size": _to("eval.inf_minibatch_size"),
    "output_dir": _to("output.output_dir"),
    "save_steps": _to("output.save_steps"),
    "checkpoint": _to("weights.checkpoint", write=lambda path: path or ""),
    "model_config": _to("matcher.extends"),
    "dropout": _to("matcher.hidden_dropout_prob", "matcher.attention_probs_dropout_prob"),
    "margin": _to("objective.margin"),
    "IAIS": _to("objective.IAIS"),
    "tsa": _to("objective.tsa"),
    "seed": _to("seed"),
}

_LAUNCHER = "ranks are read from the launcher's environment"
_HARDEST = "the hardest negatives are found anew for every anchor, with the current weights"
WITHOUT_EFFECT: dict[str, str] = {
    "rank": _LAUNCHER,
    "local_rank": _LAUNCHER,
    "size": _LAUNCHER,
    "world_size": _LAUNCHER,
    "n_gpu": _LAUNCHER,
    "config": "the file given with --config is the config",
    "val_batch_size": "validation is cut into blocks of eval.tokens_per_block tokens",
    "hard_neg_pool_size": _HARDEST,
    "steps_per_hard_neg": _HARDEST,
    "itm_rank": "ranking is the only task of this recipe",
}

BESIDE = {"tsa": "IAIS"}
"""Keys that mean something only beside another one that is on."""

ONLY: dict[str, Allowed] = {
    "decay": Allowed(("linear",), "the learning rate falls linearly; leave it out"),
    "gradient_accumulation_steps": Allowed(
        (1,), "one update takes train_batch_size anchors of each rank and direction; raise that instead"
    ),
    "lr_mul": Allowed((1,), "all parameters share one learning rate; leave it out"),
    "mlp": Allowed((1,), "the ranking head is one linear layer; leave it out"),
}


def is_flat(tree: dict[str, Any]) -> bool:
    """Say whether a config is of the published kind: published keys at the top, and no section."""
    has_section = any(isinstance(tree.get(name), dict) for name in Run.model_fields)
    # The seed and the notes look the same in both forms.
    return not has_section and any(key in _known() and key != "seed" for key in tree)


def translate(tree: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the same settings in sections, and a line for each key that has no effect.

    Raises ConfigError for an unknown key, and for a value that this program cannot honour.
    """
    sections: dict[str, Any] = {}
    notes = []
    for key, value in tree.items():
        if key in ("extends", "_note"):
            sections[key] = value
        elif key in BESIDE and is_off(tree.get(BESIDE[key])):
            notes.append(f"{path}: {key} has no effect: {BESIDE[key]} is off in this file")
        elif key in MEANING:
            for dotted in MEANING[key].keys:
                section, _, leaf = dotted.rpartition(".")
                place = sections.setdefault(section, {}) if section else sections
                place[leaf] = _found(value, path) if leaf == "extends" else MEANING[key].write(value)
        elif key in WITHOUT_EFFECT:
            notes.append(f"{path}: {key} has no effect: {WITHOUT_EFFECT[key]}")
        elif key not in ONLY:
            hint = suggest(key, {name: name for name in MEANING}) or did_you_mean(
                key, _known(), "remove it, or write the config in sections"
            )
            raise ConfigError(f"{path}: {key} is not a published key: {hint}")
        elif value not in ONLY[key].values:
            raise ConfigError(f"{path}: {key} = {value!r} cannot be honoured: {ONLY[key].otherwise}")
    return sections, notes


def _known() -> list[str]:
    return [*MEANING, *WITHOUT_EFFECT, *ONLY]


def _found(model_config: Any, path: Path) -> Any:
    """A model config is named from the folder the program is started in, or from the config file."""
    named = Path(str(model_config))
    places = [named.absolute(), path.absolute().parent / named, path.absolute().parent / named.name]
    found = next((place for place in places if place.is_file()), None)
    return os.path.relpath(found, path.absolute().parent) if found else model_config
