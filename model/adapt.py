"""The authors' state dicts in our parameter names and shapes, and back, by the tables of `model/names.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from config.errors import DataError
from model.matcher import Matcher
from model.names import CONVOLUTIONS, COUNTER, PART_OF, STRICT, TABLES, UNUSED

State = dict[str, Tensor]

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
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
    prefix, beginnings = PART_OF.get(system, ("", ()))
    name = prefix + name if name.startswith(beginnings) else name
    if name.endswith(UNUSED.get(system, ())):
        return None
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


def load(
    model: Matcher, system: str, state: Mapping[str, Tensor], rank_head_init: str = "if_missing", parts: bool = False
) -> Loaded:
    """Put a state dict, published or ours, into `model`; half-precision tensors become the model's own type.

    The rank head of UNITER starts as the matching row of the pre-training head where the checkpoint has none
    (`rank_head_init="if_missing"`), or always.

    Args:
        parts: take some parts of the model too; each is whole where the system is strict (see `STRICT`).

    Raises:
        DataError: a tensor has another shape than the model's, none belongs to the model, or the system is strict
            and a tensor has no place, or one of a part that is there (of any part, without `parts`) is missing.
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
    missing = [name for name in own if name not in known and not name.endswith(COUNTER)]
    if system in STRICT:
        begun = {_part(name) for name in known}
        lacking = [name for name in missing if _part(name) in begun] if parts else missing
        _check_whole(system, lacking, ignored + strange)
    if system == "uniter" and "match.weight" in known and (rank_head_init == "always" or "rank.weight" not in known):
        known["rank.weight"] = known["match.weight"][1:].clone()
        known["rank.bias"] = known["match.bias"][1:].clone()
        missing = [name for name in missing if name not in known]
    model.load_state_dict(known, strict=False)
    return Loaded(missing, ignored + strange)


def _part(name: str) -> str:
    """The part of a model that a parameter of ours belongs to: a tower, a projection, or all of anything else."""
    first, second, *_ = name.split(".")
    return f"{first}.{second}" if second in ("tower", "project") else first


def _check_whole(system: str, missing: list[str], left_out: list[str]) -> None:
    """Refuse a checkpoint that a model is not all of, or that is more than the model."""
    strange = [name for name in left_out if not name.endswith(UNUSED.get(system, ()))]
    for names, what in ((strange, "has {} that {} has no place for"), (missing, "lacks {} of {}")):
        if names:
            told = what.format(f"{len(names)} tensors", f"this {system}")
            more = " ..." if len(names) > 3 else ""
            raise DataError(
                f"checkpoint: {told} ({', '.join(names[:3])}{more}); "
                "use the matcher settings that the checkpoint was trained with"
            )


def _rename(module: str, table: Mapping[str, str]) -> str | None:
    if module in table:
        return table[module]
    target = table.get(NUMBER.sub("{l}", module))
    if target is None:
        return None
    numbers = iter(NUMBER.findall(module))
    return re.sub(re.escape("{l}"), lambda _: next(numbers), target)
