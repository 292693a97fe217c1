"""The model of an update's time, and its constants from measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.scaling_model.counting import Sent

Array = NDArray[np.float64]
FUSED = 128 * 2**20
"""Bytes that Horovod sends together at most."""


@dataclass(frozen=True)
class Traffic:
    """What one rank of `ranks` sends in an update.

    Attributes:
        waits: collectives that the work stands still for, one after the other.
        fused: messages that the others, the gradients, are put together into.
        tensors: collectives in all.
        alone: bytes that a rank passes on, around a ring, of those that the work stands still for.
        behind: likewise of those that may travel behind the backward pass.
        largest: bytes of the largest tensor gathered, whole.
    """

    ranks: int
    waits: int
    fused: int
    tensors: int
    alone: float
    behind: float
    largest: float

    @classmethod
    def of(cls, sent: Sequence[Sent], ranks: int) -> Traffic:
        """Add up collectives; alone there is nobody to talk to."""
        if ranks == 1:
            return cls(1, 0, 0, 0, 0.0, 0.0, 0.0)
        alone, behind = [one for one in sent if one.alone], [one for one in sent if not one.alone]
        fused = -(-sum(one.size for one in behind) // FUSED)
        largest = max((ranks * one.size for one in sent if one.kind == "gather"), default=0)
        bytes_alone, bytes_behind = (sum(on_ring(one, ranks) for one in part) for part in (alone, behind))
        return cls(ranks, len(alone), fused, len(sent), bytes_alone, bytes_behind, largest)

    @property
    def rounds(self) -> int:
        """Messages that follow one another."""
        return self.waits + self.fused


def on_ring(sent: Sent, ranks: int) -> float:
    """Bytes that a rank passes on so that all have the whole."""
    factor = {"mean": 2 * (ranks - 1) / ranks, "gather": ranks - 1, "broadcast": 1}[sent.kind]
    return factor * sent.size


@dataclass(frozen=True)
class Point:
    """A measured update: its seconds, those of the same ranks that do not talk, and what is sent."""

    name: str
    seconds: float
    silent: float
    traffic: Traffic


    @classmethod
    def of(cls, plain: dict[str, Any]) -> Point:
        """From its JSON values."""
        return cls(**plain | {"traffic": Traffic(**plain["traffic"])})


@dataclass(frozen=True)
class Fit:
    """The constants, and how far the model is from each point.

    Attributes:
        stretch: by how much an update of several ranks that talk takes longer to compute than one of ranks that do not,
            since they wait for the slowest.
        held: how much more of it where they wait in the middle of the work as well, not at its end only.
        rounds_s: seconds of a collective by the number of ranks, however little it sends.
        byte_s: seconds of a byte on the ring, on a core of its own.
        tensor_s: seconds of a tensor, whatever it is fused into.
        errors: of the model at each point, relative to what was measured.
        left_out: likewise, of the model fitted to all other points.
    """

    stretch: float
    held: float
    rounds_s: dict[int, float]
    byte_s: float
    tensor_s: float
    errors: list[float]
    left_out: list[float]

    @property
    def largest(self) -> float:
        """The largest error."""
        return max(map(abs, self.errors))


def fitted(points: Sequence[Point], cores: int) -> Fit:
    """The constants, none negative, that make the squares of the relative errors least; one rank alone has none.

    Args:
        points: those of one rank first.

    Raises:
        ValueError: there are not more points than constants.
    """
    talking = [point for point in points if point.traffic.ranks > 1]
    ranks = sorted({point.traffic.ranks for point in talking})
    terms = np.array([row(point, ranks, cores) for point in talking])
    if len(talking) <= terms.shape[1]:
        raise ValueError(f"{len(talking)} points do not tell {terms.shape[1]} constants apart")
    relative, ones = terms / np.array([point.seconds for point in talking])[:, None], np.ones(len(talking))
    best = not_negative(relative, ones)
    without = [not_negative(np.delete(relative, number, 0), ones[1:]) for number in range(len(talking))]
    left_out = [float(one @ other - 1) for one, other in zip(relative, without, strict=True)]
    alone = [point.silent / point.seconds - 1 for point in points if point.traffic.ranks == 1]
    stretch, held, byte_s, tensor_s, *rounds_s = best.tolist()
    errors = (relative @ best - 1).tolist()
    by_ranks = dict(zip(ranks, rounds_s, strict=True))
    return Fit(stretch, held, by_ranks, byte_s, tensor_s, alone + errors, alone + left_out)


def row(point: Point, ranks: Sequence[int], cores: int) -> list[float]:
    """What the constants are multiplied by: compute, that between waits, bytes, tensors, rounds by number of ranks.

    Ranks that share a core take turns on it, for what they send as well: copying is work of the processor here.
    """
    traffic = point.traffic
    turns = max(1.0, traffic.ranks / cores)
    sent = [turns * (traffic.alone + traffic.behind), turns * traffic.tensors]
    computed = [point.silent, point.silent * (traffic.waits > 0)]
    return [*computed, *sent, *(float(traffic.rounds * (traffic.ranks == count)) for count in ranks)]


def not_negative(terms: Array, wanted: Array) -> Array:
    """The x >= 0 for which `terms @ x` is nearest to `wanted`: the best of all choices of what is above zero."""
    columns = terms.shape[1]
    best, least = np.zeros(columns), float(wanted @ wanted)
    for chosen in (list(some) for count in range(1, columns + 1) for some in combinations(range(columns), count)):
        values = np.linalg.lstsq(terms[:, chosen], wanted, rcond=None)[0]
        rest = wanted - terms[:, chosen] @ values
        if (values >= 0).all() and rest @ rest < least:
            best, least = np.zeros(columns), float(rest @ rest)
            best[chosen] = values
    return best
