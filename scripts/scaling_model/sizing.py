"""What an update of published size computes and sends, for any number of items and ranks: counted in the real code.

A few items on two or four pretended ranks are enough: every tensor that is sent grows with a power of either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model import uniter
from scripts.benchmarks.synthetic_stores import Shape, open_pairs, write_stores
from scripts.benchmarks.update import Size, operations
from scripts.scaling_model.counting import Pretended, Sent
from scripts.scaling_model.stepping import Update, made_updates
from scripts.scaling_model.workloads import Workload, lifelike_stores, published

FEW, RANKS, VOCAB, CAPTIONS = 2, 2, 4000, 32
TINY_UNITER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TINY_VSRN = {"embed_size": 16, "word_dim": 8, "dim_hidden": 8, "dim_word": 8}


@dataclass(frozen=True)
class Law:
    """One collective of an update: as it was counted, and the powers of items and ranks that its size grows with."""

    sent: Sent
    items_power: int
    ranks_power: int

    def at(self, items: int, ranks: int) -> Sent:
        """The collective with so many items on each of so many ranks."""
        growth = (items / FEW) ** self.items_power * (ranks / RANKS) ** self.ranks_power
        return replace(self.sent, size=round(self.sent.size * growth))


@dataclass(frozen=True)
class Work:
    """An update of one rank.

    Attributes:
        name: what the tables call it.
        items: anchors of a rank, of each direction.
        half: whether it computes in half precision.
        operations, with_others: on one rank, and what every further rank adds to that.
        last_backward: share of the operations in the backward pass that gradients are sent from.
        laws: its collectives.
    """

    name: str
    items: int
    half: bool
    operations: float
    with_others: float
    last_backward: float
    laws: list[Law]

    def sent(self, ranks: int) -> list[Sent]:
        """Its collectives on so many ranks."""
        return [law.at(self.items, ranks) for law in self.laws]


def hard_negatives(folder: Path, compression: str, quick: bool) -> Work:
    """The published update of UNITER-base: what it computes by the arithmetic of `make bench`, what it sends by count.

    `quick` counts a tiny model; the numbers mean nothing then.
    """
    few = {"negatives.negative_size": 1, "negatives.hard_neg_size": 1, "optim.compression": compression}
    load = Workload("UNITER-base, hard negatives", "itm-flickr-hn.json", few | matcher(TINY_UNITER, quick), FEW)
    made, run = counted(load, folder, False), published(load.config)
    anchors, negatives = run.optim.train_batch_size, run.negatives
    size = Size(anchors, 1 + negatives.negative_size, 1 + negatives.hard_neg_size)
    shape = Shape(40, 40, 8, classes=0)
    index = open_pairs(write_stores(folder / "lifelike", shape, "native"), shape)
    parts = operations(uniter.Config.model_validate(run.matcher.model_dump()), index, size)
    total, passes = sum(parts.values()), made[0].passes * anchors / FEW
    half = run.optim.precision != "off"
    return Work(load.name, anchors, half, total, 0.0, backward(parts["train"]) / total / passes, laws_of(made))


def in_batch(folder: Path, items: int, compression: str, quick: bool) -> Work:
    """The update of VSRN on `items` captions a rank; what it computes and sends is counted as it makes one."""
    settings = matcher(TINY_VSRN, quick) | {"optim.compression": compression}
    load = Workload("VSRN, in-batch", "vsrn-f30k.json", settings, FEW)
    one, _, others = made = counted(load, folder, True)
    # Scores of a rank's items with those of all ranks: what grows with the number of ranks.
    for_rank = (others.operations - one.operations) / RANKS * (items / FEW) ** 2
    own = (one.operations - (others.operations - one.operations)) * items / FEW
    half = published(load.config).optim.precision != "off"
    return Work(load.name, items, half, own + for_rank, for_rank, backward(1.0), laws_of(made))


def backward(training: float) -> float:
    """Of operations with gradient, those of the backward pass: two for each of the forward pass."""
    return 2 / 3 * training


def matcher(tiny: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Settings for the tiny model, or none."""
    return {f"matcher.{name}": value for name, value in (tiny | {"img_dim": 32}).items()} if quick else {}


def counted(load: Workload, folder: Path, operations_too: bool) -> tuple[Update, Update, Update]:
    """An update of a few items on two pretended ranks, of twice as many, and of the few on twice as many ranks."""
    place = folder / load.config
    width = load.run((folder, folder)).matcher.model_dump()["img_dim"]
    stores = lifelike_stores(place, width, VOCAB, CAPTIONS)

    def made(items: int, ranks: int) -> Update:
        return made_updates(load.of(items).run(stores), Pretended(0, ranks), 1, place, count=operations_too)[-1]

    return made(FEW, RANKS), made(2 * FEW, RANKS), made(FEW, 2 * RANKS)


def laws_of(made: Sequence[Update]) -> list[Law]:
    """How each collective grows, from the updates of `counted`.

    Raises:
        ValueError: they differ in more than the sizes of what they send, or one does not grow with a power.
    """
    names = [[(one.kind, one.name, one.alone) for one in update.sent] for update in made]
    if any(other != names[0] for other in names[1:]):
        raise ValueError("updates with more items or ranks send other tensors: their sizes cannot be projected")
    return [
        Law(few, power(few, items), power(few, ranks))
        for few, items, ranks in zip(*(update.sent for update in made), strict=True)
    ]


def power(few: Sent, more: Sent) -> int:
    """The power of two that a size grew by; raises ValueError where it is none."""
    grown = math.log2(more.size / few.size)
    if grown != round(grown):
        raise ValueError(f"{few.name}: {few.size} bytes became {more.size} with twice as many: no power of two")
    return round(grown)
