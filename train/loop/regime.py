"""The interface of a training regime: how batches become losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from config.errors import ConfigError
from config.schema import Run
from config.sections import Data
from config.wording import pluralise
from data.batches.batch import Batch
from data.batches.loader import Loader
from data.batches.pairs import Array
from data.batches.plan import Plan
from data.batches.prefetch_buffer import Capacity
from train.assembly.recipe import Recipe
from train.assembly.splits import check_lengths, text_settings
from train.metrics.clock import Clock
from train.metrics.journal import Journal


@dataclass(frozen=True)
class Pass:
    """What a part of an update came to.

    Attributes:
        total: to be sent backward; an update adds up its passes and averages over ranks.
        logged: named values; added up and averaged like `total`.
        anchors, pairs: what was trained on, and how many scores that took.
    """

    total: Tensor
    logged: dict[str, Tensor]
    anchors: int
    pairs: int


class Regime(ABC):
    """A way to train a recipe: which anchors an update takes, who meets them, and what that costs.

    `anchors` are the captions that the endless global sequence walks through; an update takes the next
    `anchors_per_update` of them, shared out over the ranks, this rank's in `passes` parts.
    """

    offers: frozenset[str]
    """What it lets an objective see besides scores (see `Objective.needs`)."""
    anchors: Array
    parts: int
    """In how many parts an update can be shared out over ranks."""
    passes: int
    capacity: Capacity

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.run, self.comm = recipe, recipe.run, recipe.comm

    @property
    def anchors_per_update(self) -> int:
        """Places of the global sequence that all ranks together take in one update."""
        return self.run.optim.global_batch_size or self.run.optim.train_batch_size * self.comm.size

    @property
    def anchors_each(self) -> float:
        """Their mean over ranks: losses are shares of it, so that the mean of ranks with more and fewer is right."""
        return self.anchors_per_update / self.comm.size

    @abstractmethod
    def plans(self, first_slot: int) -> Iterator[Plan]:
        """This rank's plans from a place of the global sequence on, for ever."""

    @abstractmethod
    def losses(self, plan: Plan, batch: Batch, step: int, clock: Clock) -> Pass:
        """What a batch costs in update `step` (from 0)."""

    @abstractmethod
    def headline(self, values: dict[str, float]) -> dict[str, float]:
        """Of the logged values, the one that says most while the run goes on."""

    @abstractmethod
    def warning(self, step: int, values: dict[str, float]) -> str:
        """What the values logged after `step` updates should make people look at; '' for nothing."""

    def plateaus(self, step: int) -> dict[str, float]:
        """What each term of the objective costs an anchor of this update while all scores are alike."""
        return self.recipe.objective.plateaus(step / self.run.optim.num_train_steps)

    def prepare(self, step: int, folder: Path, journal: Journal) -> int:  # noqa: ARG002
        """Make ready for the updates from `step` on; returns the step at which to be asked again."""
        return self.run.optim.num_train_steps

    def loader(self, first_slot: int) -> Loader:
        """Batches from a place of the global sequence on."""
        data, recipe = self.run.data, self.recipe
        reading = data.n_workers, data.prefetch_batches
        return Loader(
            recipe.train.index, self.plans(first_slot), self.capacity, *reading, recipe.device, data.pin_mem,
            recipe.augment,
        )  # fmt: skip

    def check(self, texts: Array) -> None:
        """Check the run against what this regime asks of it; `texts` are those that it reads.

        Raises:
            ConfigError: the objective sees more than is offered, an update wants the same anchor twice, or the config
                asks for random changes that have no items to be keyed by.
            DataError: a text is longer than the model takes.
        """
        recipe = self.recipe
        check_needs(recipe, self.offers)
        check_changes(self.run.data, self.offers)
        check_anchors(self.run, len(self.anchors), self.parts, self.comm.size)
        check_lengths(recipe.train.index, texts, recipe.matcher.longest_text, text_settings(self.run.matcher))


def check_needs(recipe: Recipe, offers: frozenset[str]) -> None:
    """Raise ConfigError where the objective looks at something that neither matcher nor regime hands over."""
    missing = sorted(recipe.objective.needs - recipe.matcher.offers - offers)
    if missing:
        remedy = " and ".join(REMEDIES[need].format(matcher=recipe.run.matcher.name) for need in missing)
        raise ConfigError(f"objective.name = {recipe.run.objective.name}: {remedy}")


REMEDIES = {
    "attention": "needs attention, which matcher {matcher} with these settings does not offer; choose another matcher "
    "(--matcher), undo its parity switches, or leave the objective (--objective hinge)",
    "pools": "compares the candidates of anchored pools; train it with train/itm_hn.py, or choose one for batches "
    "(--objective triplet)",
    "items": "compares the items of a batch with each other; train it with train/itm.py, or choose one for pools "
    "(--objective hinge)",
    "offline": "needs offline negatives; name the folder that train/mine.py wrote (--offline FOLDER)",
}


def check_changes(data: Data, offers: frozenset[str]) -> None:
    """Raise ConfigError where images or texts should be changed at random in a regime that reads one for many pairs."""
    if "items" in offers:
        return
    for name in ("smallest_crop", "word_augment"):
        if getattr(data, name):
            raise ConfigError(
                f"{name}={getattr(data, name)}: only the items of a batch are changed at random, and this trains on "
                "pools; set it to 0, or train with train/itm.py"
            )


def check_anchors(run: Run, anchors: int, parts: int, size: int) -> None:
    """Raise ConfigError where one update would want the same anchor twice, or has none for some rank."""
    whole, each, unit = run.optim.global_batch_size, run.optim.train_batch_size, run.negatives.mining_batch
    ranks = pluralise(size, "rank")
    if not whole and each * size > anchors:
        fewer_ranks = [f"-np to {anchors // each}"] if size > 1 and each <= anchors else []
        smaller = [_smaller("train_batch_size", anchors // size, unit)] if size <= anchors else []
        raise ConfigError(
            f"train_batch_size={each} on {ranks} wants {each * size} anchors an update, but there are only {anchors}; "
            f"lower {' or '.join(smaller + fewer_ranks) or f'both, to at most {anchors} together'}"
        )
    if whole > anchors:
        raise ConfigError(
            f"global_batch_size={whole}: there are only {anchors} anchors, and an update takes each once; lower "
            f"{_smaller('it', anchors, unit)}"
        )
    if parts < size:
        more = f"raise it to {size * unit}" if size * unit <= anchors else "lower mining_batch"
        raise ConfigError(
            f"global_batch_size={whole} makes {pluralise(parts, 'part')} of mining_batch {unit}, too few for {ranks}; "
            f"{more}, or lower -np to {parts}"
        )


def _smaller(name: str, most: int, unit: int) -> str:
    """The largest batch that is taken: a multiple of mining_batch, the `unit`, or of a smaller one."""
    if most < unit:
        return f"{name} to {most} and mining_batch to a divisor of it"
    return f"{name} to {most // unit * unit}"
