"""The authors' state dicts in our parameter names and shapes, and back, by the tables of `model/names.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from config.errors import DataError
from model.matcher import Matcher
from model.names import CONVOLUTIONS, COUNTER, TABLES

State = dict[str, Tensor]

OLD_SUFFIXES = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint did not have, and what it had that the model does not want."""

    missing: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def to_house(system: str, published: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Published names -> ours, with the names that have no place here."""
    state, ignored = {}, []
    for name, tensor in published.items():
        ours = house_name(system, name)
        if ours is None:
            ignored.append(name)
        else:
            state[ours] = tensor.squeeze(2) if _is_convolution(system, ours) and tensor.ndim == 3 else tensor
    return state, ignored


def house_name(system: str, name: str) -> str | None:
    """Our name of a published parameter, or None where the system has no such part."""
    module, _, suffix = modern(name).rpartition(".")
    ours = _rename(module, TABLES[system])
    return None if ours is None else f"{ours}.{suffix}"


def published_name(system: str, name: str) -> str:
    """The published name of one of our parameters."""
    module, _, suffix = name.rpartition(".")
    theirs = _rename(module, {ours: theirs for theirs, ours in TABLES[system].items()})
    if theirs is None:
        raise DataError(f"{name}: {system} has no such parameter; is the checkpoint of another matcher?")
    return f"{theirs}.{suffix}"


def to_published(system: str, state: Mapping[str, Tensor]) -> State:
    """Our names -> the published ones."""
    return {
        published_name(system, name): tensor[..., None] if _is_convolution(system, name) else tensor
        for name, tensor in state.items()
    }


def _is_convolution(system: str, name: str) -> bool:
    """Whether our parameter of this name is published as the kernel of a convolution of width 1."""
    module, _, suffix = name.rpartition(".")
    return suffix == "weight" and module in CONVOLUTIONS.get(system, ())


def modern(name: str) -> str:
    """Old TensorFlow-style suffixes and BERT prefixes in the names of today."""
    module, _, suffix = name.rpartition(".")
    name = f"{module}.{OLD_SUFFIXES.get(suffix, suffix)}"
    if name.startswith("bert."):
        rest = name.removeprefix("bert.")
        foreign = rest.startswith(("embeddings.", "encoder.", "pooler."))
        name = f"uniter.{rest}" if foreign else rest
    return name


def load(model: Matcher, system: str, state: Mapping[str, Tensor], rank_head_init: str = "if_missing") -> Loaded:
    """Put a state dict, published or ours, into `model`; half-precision tensors become the model's own type.

    The rank head of UNITER starts as the matching row of the pre-training head where the checkpoint has none
    (`rank_head_init="if_missing"`), or always.

    Raises:
        DataError: a tensor has another shape than the model's, or none belongs to the model.
    """
    own = model.state_dict()
    if any(name in own for name in state):
        known, ignored = {name: state[name] for name in state if name in own}, [n for n in state if n not in own]
    else:
        known, ignored = to_house(system, state)
    known, strange = {n: t for n, t in known.items() if n in own}, [n for n in known if n not in own]
    if not known:
        raise DataError(f"checkpoint: none of its {len(state)} tensors belongs to matcher {system!r}")
    for name, tensor in known.items():
        if tensor.shape != own[name].shape:
            raise DataError(
                f"checkpoint: {name} is {list(tensor.shape)} but the model wants {list(own[name].shape)}; "
                "use the matcher settings that the checkpoint was trained with"
            )
    if system == "uniter" and "match.weight" in known and (rank_head_init == "always" or "rank.weight" not in known):
        known["rank.weight"] = known["match.weight"][1:].clone()
        known["rank.bias"] = known["match.bias"][1:].clone()
    model.load_state_dict(known, strict=False)
    missing = [name for name in own if name not in known and not name.endswith(COUNTER)]
    return Loaded(missing, ignored + strange)


def _rename(module: str, table: Mapping[str, str]) -> str | None:
    if module in table:
        return table[module]
    number = re.search(r"(?<=\.)\d+(?=\.)", module)
    template = module if number is None else module[: number.start()] + "{l}" + module[number.end() :]
    target = table.get(template)
    return None if target is None else target.replace("{l}", number.group() if number else "")
