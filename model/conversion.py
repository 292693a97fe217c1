"""Published state dicts to our parameter names and shapes, and back, by the tables of `model/published_names.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from config.errors import DataError
from model.published_names import CONVOLUTIONS, PART_OF, TABLES, UNUSED

State = dict[str, Tensor]

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
OURS = {system: {ours: theirs for theirs, ours in table.items()} for system, table in TABLES.items()}
MATCH, RANK, MATCH_ROW = "itm_output", "rank_output", "itm_match_row"
OLD_SUFFIXES = {"gamma": "weight", "beta": "bias"}


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
    theirs = _rename(module, OURS[system])
    if theirs is None:
        raise DataError(f"{name}: {system} has no such parameter; is the checkpoint of another matcher?")
    return f"{theirs}.{suffix}"


def to_published(system: str, state: Mapping[str, Tensor]) -> State:
    """Our names -> the published ones."""
    return {
        published_name(system, name): tensor[..., None] if _is_convolution(system, name) else tensor
        for name, tensor in state.items()
    }


def give_rank_row(published: Mapping[str, Tensor]) -> State:
    """Published UNITER weights whose matching head ranks: the published evaluation always ranks by its row 1.

    What that row was is kept under names that those programs pass over; `take_rank_row` puts it back.
    """
    if not published.keys() >= {f"{head}.{part}" for head in (MATCH, RANK) for part in ("weight", "bias")}:
        return dict(published)
    changed = dict(published)
    for part in ("weight", "bias"):
        match, rank = published[f"{MATCH}.{part}"], published[f"{RANK}.{part}"]
        changed[f"{MATCH}.{part}"] = torch.cat([match[:1], rank])
        changed[f"{MATCH_ROW}.{part}"] = match[1:].clone()
    return changed


def take_rank_row(published: Mapping[str, Tensor]) -> State:
    """The inverse of `give_rank_row`; weights that it never changed as they are."""
    state = {name: tensor for name, tensor in published.items() if not name.startswith(f"{MATCH_ROW}.")}
    for part in ("weight", "bias"):
        row, match = published.get(f"{MATCH_ROW}.{part}"), published.get(f"{MATCH}.{part}")
        if row is not None and match is not None:
            state[f"{MATCH}.{part}"] = torch.cat([match[:1], row])
    return state


def system_of(state: Mapping[str, Tensor]) -> str | None:
    """The system that tensors are of, by their names, published or ours; None where no name is known.

    Where two know as many, as of BFAN, whose names VSRN has too, it is the one that has fewer besides.
    """
    known = {system: sum(_is_known(system, name) for name in state) for system in TABLES}
    best = max(TABLES, key=lambda system: (known[system], -len(TABLES[system])))
    return best if known[best] else None


def _is_known(system: str, name: str) -> bool:
    return house_name(system, name) is not None or _rename(name.rpartition(".")[0], OURS[system]) is not None


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


def _rename(module: str, table: Mapping[str, str]) -> str | None:
    if module in table:
        return table[module]
    target = table.get(NUMBER.sub("{l}", module))
    if target is None:
        return None
    numbers = iter(NUMBER.findall(module))
    return re.sub(re.escape("{l}"), lambda _: next(numbers), target)
