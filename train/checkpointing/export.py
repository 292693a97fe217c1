"""Export of our weights to the published layouts: names, parts and options."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from model.conversion import State, give_rank_row, to_published
from model.laps import IMAGENET, Laps
from model.loading import load
from model.matcher import Matcher, build, find
from model.published_names import PARTS
from model.vsrn import Vsrn
from train.checkpointing.published import MEANS, SETTINGS, Plain, Published, build_matcher, plain_values

F30K, COCO = "f30k_precomp", "coco_precomp"
OBJECTIVE = {"margin": "margin", "margin_online": "marginonline", "margin_offline": "marginoffline", "alpha": "alpha",
             "beta": "beta", "max_violation": "max_violation"}  # fmt: skip
"""Settings of our objectives, and what the published options call them."""
ELSEWHERE = {
    "optim.train_batch_size": "batch_size",
    "optim.learning_rate": "learning_rate",
    "optim.grad_norm": "grad_clip",
    "data.n_workers": "workers",
    "negatives.offline_range": "offcandisize",
}
"""Settings of our runs, likewise."""
COMPUTED: dict[str, dict[str, Any]] = {
    "uniter": {},
    "vsrn": {"region_norm_axis": "regions"},
    "bfan": {},
    "laps": {"alignment": "slimmed", "score_net": False, "leaky": True, "both_ways": True,
             **{look: list(values) for look, values in IMAGENET.items()}},
}  # fmt: skip
"""What the published programs compute, where our settings offer something else that changes scores."""
UNWRITTEN = frozenset({"alignment", "score_net"})
"""Settings of ours whose weights have no place in the published layout unless they are the published ones."""


def build_published_matcher(system: str, state: Mapping[str, Tensor], run: Mapping[str, Any]) -> Matcher:
    """The matcher that weights are of, holding them: with the settings of its run, or with what its shapes tell.

    Raises:
        DataError: the weights are not all that such a matcher has, or of another one.
    """
    noted = run.get("matcher", {}).get("name", system)
    if noted != system:
        raise DataError(f"these are weights of matcher {noted}, not of {system}; leave --matcher out")
    if "matcher" in run:
        matcher = build(find(system).settings.model_validate(run["matcher"]))
    else:
        matcher = build_matcher(system, Published(to_published(system, state), {}, {}))
    load(matcher, system, state, f"the weights of this {system}")
    return matcher


def published_content(
    matcher: Matcher, run: Mapping[str, Any], given: Mapping[str, Plain]
) -> tuple[dict[str, Any], list[str]]:
    """What a published program of the system reads, and in what its scores will differ from ours.

    UNITER is a plain state dict; its row 1 of `itm_output` is the trained rank head, since the published evaluation
    always ranks by that. VSRN and BFAN are a list of state dicts, LAPS is one, each with the options of its training.

    Args:
        run: the checkpoint's run as plain JSON; empty where there is none.
        given: options by their published names, which come before those of the run.

    Raises:
        ConfigError: an option contradicts the weights.
        DataError: the published layout has no place for some of the weights.
    """
    system, ours = matcher.config.name, matcher.config.model_dump(mode="json")
    unlike = {key: theirs for key, theirs in COMPUTED[system].items() if ours[key] != theirs}
    for key in unlike.keys() & UNWRITTEN:
        raise DataError(f"{key}={ours[key]}: the published {system} has no place for such weights; export a model "
                        f"that was trained with {key}={unlike[key]}")  # fmt: skip
    notes = [f"the published program computes {key}={theirs}; here it is {ours[key]}" for key, theirs in unlike.items()]
    weights = to_published(system, matcher.state_dict())
    if system == "uniter":
        return give_rank_row(weights), notes
    facts = run.get("_note", {})
    counted = {"epoch": facts.get("epoch", 0), "best_rsum": facts.get("best_rsum", 0.0),
               "Eiters": facts.get("Eiters", facts.get("step", 0))}  # fmt: skip
    own = published_options(matcher, run)
    wrong = [f"{key}={given[key]} (here {own[key]})" for key in given if key in ours and given[key] != own.get(key)]
    if wrong:
        raise ConfigError(f"--option {', '.join(wrong)}: contradicts the weights and their settings; leave it out")
    options = {**facts.get("options", {}), **own, **given}
    if isinstance(matcher, Vsrn):
        options["data_name"] = data_name(matcher.config.variant, given)
    model = weights if system == "laps" else split_parts(weights)
    return {"model": model, "opt": Namespace(**options), **counted}, notes


def published_options(matcher: Matcher, run: Mapping[str, Any]) -> dict[str, Plain]:
    """The options of the published command lines, as far as our settings tell them, and our settings as they are."""
    objective = run.get("objective", {})
    told = {theirs: objective[ours] for ours, theirs in OBJECTIVE.items() if ours in objective}
    for key, theirs in ELSEWHERE.items():
        section, leaf = key.split(".")
        if leaf in run.get(section, {}):
            told[theirs] = run[section][leaf]
    settings = matcher.config.model_dump(mode="json")
    own = plain_values({key: value for key, value in settings.items() if key != "name"})
    if isinstance(matcher, Vsrn):
        own |= MEANS | {"dim_vid": own["embed_size"], "bidirectional": int(matcher.config.bidirectional)}
        own |= {"rnn_dropout_p": 0.5}
    if isinstance(matcher, Laps):
        own |= {"vit_type": settings["vision"]["model_type"], "num_patches": matcher.vision.patches}
    return told | own | {SETTINGS: json.dumps(settings)}


def data_name(variant: str, given: Mapping[str, Plain]) -> Plain:
    """The name of the data that makes the published VSRN build the variant of these weights."""
    wanted = given.get("data_name", F30K if variant == "F" else COCO)
    if (wanted == F30K) != (variant == "F"):
        raise ConfigError(f"--option data_name={wanted}: the published program builds another variant of VSRN for it "
                          f"than {variant}, which these weights are of; leave the option out")  # fmt: skip
    return wanted


def split_parts(weights: Mapping[str, Tensor]) -> list[State]:
    """The state dicts of image encoder, text encoder and caption branch: the inverse of `published.joined`."""
    parts = [{n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)} for prefix in PARTS]
    return [part for part in parts if part]


def write_published(path: Path, content: Any) -> None:
    """Save in torch's old file format, which the torch of those programs reads as well as that of today."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
