"""State dicts loaded into matchers: whole, as far as scores depend on them, or as a part to start from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from config.errors import DataError
from config.wording import pluralise
from model.conversion import to_house
from model.matcher import Matcher
from model.published_names import COUNTER, OTHER_HEADS, UNUSED

RankHead = Literal["if_missing", "always"]
SETTINGS = "use the matcher settings that the weights were trained with"
SHOWN = 3
TOWER = re.compile(r"\w+\.(tower|project)\b")


@dataclass(frozen=True)
class Loaded:
    """What came of a state dict.

    Attributes:
        missing: parameters of the model that it lacks; they are what they were.
        ignored: names of its tensors that were left out.
        taken: how many tensors of the model it filled.
        share: which share of the model's numbers those are, from 0 to 1.
    """

    missing: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    taken: int = field(default=0, compare=False)
    share: float = field(default=1.0, compare=False)

    def told(self) -> str:
        """What came and what did not, in one line."""
        line = f"{self.taken} tensors, {100 * self.share:.4g} % of the model's parameters, came from it"
        if self.missing:
            line += f"; initialised: {by_part(self.missing)}"
        if self.ignored:
            line += f"; left out of the file: {by_part(self.ignored)}"
        return line


def load(model: Matcher, system: str, state: Mapping[str, Tensor], name: str = "checkpoint") -> Loaded:
    """Put a whole state dict, published or ours, into `model`; half-precision tensors become the model's own type.

    Args:
        name: what the weights are called in an error.

    Raises:
        DataError: a tensor of the model is missing, one of the file has no place in it, or has another shape.
    """
    fit = Fit(model, system, state, name)
    fit.refuse(fit.missing, fit.strange)
    return fit.put()


def load_to_score(
    model: Matcher, system: str, state: Mapping[str, Tensor], name: str = "checkpoint",
    rank_head_init: RankHead = "if_missing",
) -> Loaded:  # fmt: skip
    """Like `load`, but parts on which no score hangs (`Matcher.idle`) may be absent, or more than the model has.

    The rank head of UNITER becomes the matching row of the pre-training head where the weights have none, or always.

    Raises:
        DataError: as for `load`.
    """
    fit = Fit(model, system, state, name)
    fit.start_rank_head(rank_head_init)
    missing, strange = ([n for n in names if not n.startswith(model.idle)] for names in (fit.missing, fit.strange))
    fit.refuse(missing, strange)
    return fit.put()


def load_part(
    model: Matcher, system: str, state: Mapping[str, Tensor], name: str = "checkpoint",
    rank_head_init: RankHead = "if_missing",
) -> Loaded:  # fmt: skip
    """Start from weights that are plainly a part of the model: each part of it is filled whole, or not at all.

    Parts that the model has not, such as heads of another task, are left out.

    Raises:
        DataError: a part of the model is filled by halves, or is smaller than that of the weights; another shape.
    """
    fit = Fit(model, system, state, name)
    fit.start_rank_head(rank_head_init)
    begun, own = {part_of(known) for known in fit.known}, {part_of(known) for known in model.state_dict()}
    fit.refuse([n for n in fit.missing if part_of(n) in begun], [n for n in fit.strange if part_of(n) in own])
    return fit.put()


def load_what_fits(
    model: Matcher, system: str, state: Mapping[str, Tensor], name: str = "checkpoint",
    rank_head_init: RankHead = "if_missing",
) -> Loaded:  # fmt: skip
    """Start from every tensor that has a name and shape of the model, whatever else is missing or left out.

    Raises:
        DataError: there is none.
    """
    fit = Fit(model, system, state, name)
    fit.start_rank_head(rank_head_init)
    return fit.put()


class Fit:
    """How a state dict fits a model, which is not changed before `put`.

    Attributes:
        known: the tensors that have a place, under the model's names.
        missing: parameters of the model that the state dict lacks, or has in another shape.
        unlike: what to say of each tensor that has another shape than the model's.
        strange: names, ours where there is one, of tensors without a place.
        ignored: names of tensors that take no part in any matcher of the system.
    """

    def __init__(self, model: Matcher, system: str, state: Mapping[str, Tensor], name: str) -> None:
        """Raises DataError where no tensor has a place."""
        self.model, self.system, self.name = model, system, name
        own = model.state_dict()
        renamed, nameless = (dict(state), []) if any(n in own for n in state) else to_house(system, state)
        placed = {n: tensor for n, tensor in renamed.items() if n in own}
        if not placed:
            raise DataError(f"{name}: none of its {len(state)} tensors belongs to matcher {system!r}; name its weights")
        self.known = {n: tensor for n, tensor in placed.items() if tensor.shape == own[n].shape}
        self.unlike = {n: f"{n} is {list(tensor.shape)} but the model wants {list(own[n].shape)}"
                       for n, tensor in placed.items() if n not in self.known}  # fmt: skip
        others = [n for n in renamed if n not in placed] + nameless
        self.ignored = [n for n in others if takes_no_part(system, n)]
        self.strange = [n for n in others if n not in self.ignored]
        self.missing = [n for n in own if n not in self.known and not n.endswith(COUNTER)]

    def start_rank_head(self, when: RankHead) -> None:
        """Make UNITER's rank head the matching row of the pre-training head, where there is that."""
        match = {n: self.known[n] for n in ("match.weight", "match.bias") if n in self.known}
        if self.system == "uniter" and len(match) == 2 and (when == "always" or "rank.weight" not in self.known):
            self.known |= {n.replace("match", "rank"): tensor[1:].clone() for n, tensor in match.items()}
            self.missing = [n for n in self.missing if n not in self.known]

    def refuse(self, missing: Iterable[str], strange: Iterable[str]) -> None:
        """Raise DataError where there is any of them, or a tensor of another shape."""
        if self.unlike:
            raise DataError(f"{self.name}: {next(iter(self.unlike.values()))}; {SETTINGS}")
        for names, what in ((list(strange), "has {} that {} has no place for"), (list(missing), "lacks {} of {}")):
            if names:
                told = what.format(pluralise(len(names), "tensor"), f"this {self.system}")
                more = " ..." if len(names) > SHOWN else ""
                raise DataError(f"{self.name}: {told} ({', '.join(names[:SHOWN])}{more}); {SETTINGS}")

    def put(self) -> Loaded:
        """Put what is known into the model."""
        own = self.model.state_dict()
        self.model.load_state_dict(self.known, strict=False)
        total, came = (sum(own[n].numel() for n in names) for names in (own, self.known))
        left_out = [*self.ignored, *self.strange, *self.unlike]
        return Loaded(self.missing, left_out, len(self.known), came / total)


def takes_no_part(system: str, name: str) -> bool:
    """Whether a name is of what no matcher of the system computes with: buffers, and heads of other tasks."""
    return name.endswith(UNUSED.get(system, ())) or name.startswith(OTHER_HEADS.get(system, ()))


def part_of(name: str) -> str:
    """The part of a model that a parameter belongs to: a tower, a projection, or all of anything else."""
    found = TOWER.match(name)
    return found[0] if found else name.partition(".")[0]


def by_part(names: Iterable[str]) -> str:
    """The parts that names belong to, each with how many there are."""
    return ", ".join(f"{part}.* ({count})" for part, count in Counter(map(part_of, names)).items())
