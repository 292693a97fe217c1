"""Published `.pt` and `.pth.tar` files, read without unpickling anything but tensors and plain values."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from pydantic import ValidationError
from torch import Tensor

from config.errors import DataError
from config.sections import Named
from model.matcher import Matcher, build, find
from model.published_names import PARTS
from train.checkpointing import published_laps, published_uniter
from train.checkpointing.published_laps import TAKEN, Described

Plain = bool | int | float | str | None
MEANS = {"rnn_type": "gru", "measure": "cosine"}
"""Options of which one value was ever published, and is what our matchers compute."""
SETTINGS = "crossmatch"
"""Option that holds our own settings, as JSON, in files that were exported from here."""
SHAPES = {
    "txt_enc.embed.weight": ("vocab_size", "word_dim"),
    "img_enc.fc.weight": ("embed_size", "img_dim"),
    "img_enc.fc.weight_v": ("embed_size", "img_dim"),
    "caption_model.encoder.vid2hid.weight": ("dim_hidden",),
    "caption_model.decoder.embedding.weight": ("vocab_size", "dim_word"),
}
"""Settings that the shapes of published tensors are."""
FACTS = ("epoch", "Eiters", "best_rsum")
ONE_DICT = frozenset({"laps", "uniter"})
"""Systems whose model is a single state dict, with its options or alone."""


@dataclass(frozen=True)
class Published:
    """A checkpoint of UNITER, AOQ, VSRN, BFAN or LAPS as its authors saved it.

    Attributes:
        weights: all tensors, each part's names under its prefix.
        options: the authors' command line, by its own names.
        facts: `epoch` (the next one), `Eiters` (steps done) and `best_rsum`, as far as the file has them.
    """

    weights: dict[str, Tensor]
    options: dict[str, Plain]
    facts: dict[str, Plain]


def load_restricted(path: Path) -> Any:
    """What a file written by `torch.save` holds, on the host; types beyond those named above are refused unread.

    Raises:
        DataError: the file is cut off, is none of torch's, or asks for another type.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch raises what its reader of the day stumbles over
        stranger = re.search(r"GLOBAL (\S+)", str(error))
        if stranger:
            told = f"{path}: refused, it asks for {stranger[1]}, which is neither a tensor nor a plain value"
            raise DataError(f"{told}; save the model's state dict alone") from error
        gist = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise DataError(f"{path}: not a whole checkpoint ({gist}); copy or save it again") from error


def read_published(path: Path, system: str = "") -> Published:
    """A published checkpoint with its options; UNITER and LAPS are one state dict, which may come without them.

    Raises:
        DataError: it is not one, or not whole.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a published .pth.tar")
    content = load_restricted(path)
    if system in ONE_DICT:
        return _of_one_dict(path, content)
    options = content.get("opt") if isinstance(content, dict) else None
    if not isinstance(options, Namespace) or not is_parts(content.get("model")):
        raise DataError(
            f"{path}: holds no list of state dicts with the options they were trained with; "
            "name a published .pth.tar of VSRN or BFAN, or give --output a .safetensors file"
        )
    facts = {name: content[name] for name in FACTS if name in content}
    return Published(join_parts(content["model"]), plain_values(vars(options)), plain_values(facts))


def _of_one_dict(path: Path, content: object) -> Published:
    """A published checkpoint whose model is a single state dict; a state dict alone will do."""
    around = content if isinstance(content, dict) and "model" in content else {"model": content}
    weights, options = around["model"], around.get("opt", Namespace())
    if not is_state(weights) or not isinstance(options, Namespace):
        raise DataError(f"{path}: holds no state dict with the options it was trained with; name a published file")
    return Published(
        dict(weights), plain_values(vars(options)), plain_values({n: around[n] for n in FACTS if n in around})
    )


def plain_values(values: Mapping[str, object]) -> dict[str, Plain]:
    """Those of the values that are plain; nothing else of a stranger's is passed on."""
    return {name: value for name, value in values.items() if isinstance(value, Plain)}


def is_parts(model: object) -> TypeGuard[list[Mapping[str, Tensor]]]:
    """Whether this is a list of one to three state dicts."""
    return isinstance(model, list) and 0 < len(model) <= len(PARTS) and all(is_state(part) for part in model)


def is_state(model: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether this is one state dict."""
    return isinstance(model, Mapping) and all(isinstance(name, str) and isinstance(tensor, Tensor)
                                              for name, tensor in model.items())  # fmt: skip


def join_parts(model: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state dicts of image encoder, text encoder and caption branch as one, each under its prefix."""
    return {prefix + name: tensor for prefix, part in zip(PARTS, model, strict=False) for name, tensor in part.items()}


def build_matcher(system: str, published: Published) -> Matcher:
    """A matcher of the settings that a published checkpoint was trained with; its weights are still to be loaded.

    Raises:
        DataError: it was trained with an option that our matcher does not have.
    """
    options, kind = published.options, find(system).settings
    ours = exported_settings(options)
    if system in ONE_DICT:
        taken = {name: options[name] for name in TAKEN if name in options}
        told = ours | taken if ours else describe_published(system, published).settings
        return _built(kind, told | {"name": system})
    for name, value in MEANS.items():
        if options.get(name, value) != value:
            raise DataError(f"option {name} = {options[name]!r}: only {value!r} can be read; train that model anew")
    found = ours | read_sizes(published.weights) | options | {"name": system}
    if system == "vsrn":
        if "data_name" in options:
            found["variant"] = "F" if options["data_name"] == "f30k_precomp" else "C"
        if not any(name.startswith(PARTS[2]) for name in published.weights):
            found["caption_weight"] = 0.0
    return _built(kind, {name: found[name] for name in kind.model_fields if name in found})


def _built(kind: type[Named], settings: Mapping[str, Any]) -> Matcher:
    try:
        return build(kind.model_validate(settings))
    except ValidationError as error:
        wrong = error.errors()[0]
        told = f"option {wrong['loc'][0]} = {wrong['input']!r}: {wrong['msg'].lower()}"
        raise DataError(f"{told}; the file is no checkpoint of {settings.get('name', 'this system')}") from error


def exported_settings(options: Mapping[str, Plain]) -> dict[str, Any]:
    """Our own settings in the options of a file that was exported from here; empty in any other."""
    try:
        found = json.loads(str(options.get(SETTINGS, "{}")))
    except (ValueError, RecursionError) as error:
        raise DataError(f"option {SETTINGS} is not JSON ({error}); export the weights again") from error
    return found if isinstance(found, dict) else {}


def guess_settings(system: str, published: Published) -> list[str]:
    """Settings of `build_matcher` that the file does not tell, and where they were taken from."""
    told = system not in ONE_DICT or exported_settings(published.options)
    return [] if told else describe_published(system, published).guessed


def describe_published(system: str, published: Published) -> Described:
    """The settings that shapes, and options where there are some, tell of a model that is one state dict.

    Raises:
        DataError: a tensor that tells a size is missing, or sizes and options contradict each other.
    """
    if system == "uniter":
        return published_uniter.describe(published.weights)
    return published_laps.describe(published.weights, published.options)


def read_sizes(weights: Mapping[str, Tensor]) -> dict[str, Plain]:
    """Settings that names and shapes of published tensors tell, for files that do not say them."""
    found: dict[str, Plain] = {}
    for name, keys in SHAPES.items():
        if name in weights:
            found |= dict(zip(keys, weights[name].shape, strict=False))
    layers = sum(re.fullmatch(r"txt_enc\.rnn\.weight_ih_l\d+", name) is not None for name in weights)
    if layers:
        found["num_layers"] = layers
    if "img_enc.fc.weight_v" in weights:
        found["precomp_enc_type"] = "weight_norm"
    if "caption_model.encoder.rnn.weight_ih_l0_reverse" in weights:
        found["bidirectional"] = True
    return found | {"variant": "F" if "img_enc.bn.weight" in weights else "C"}
