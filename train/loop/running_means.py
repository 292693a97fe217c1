"""Running means of costs since the last line of the log, and a digest of all samples taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from data.batches.plan import DIGESTS
from train.distributed.comm import Comm


class RunningMeans:
    """Sums over updates on this rank, and what they are over all ranks.

    The digest of samples is the sum of the digests of all plans since the run began (see `Plan.digest`): two runs
    that show the same one took the same samples, on whatever ranks and however often they were resumed.
    """

    def __init__(self, comm: Comm, device: torch.device) -> None:
        self._comm = comm
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        self._device = device
        self._updates = 0
        self._samples, self._digest = 0, 0

    def update(self, costs: Iterable[tuple[str, Tensor]]) -> None:
        """Add an update with its named costs; a name may come more than once."""
        for name, value in costs:
            self._sums[name] += value
        self._updates += 1

    def add_digest(self, digest: int) -> None:
        """Add the digest of a plan of this rank."""
        self._digest = (self._digest + digest) % DIGESTS

    def means(self) -> dict[str, float]:
        """The mean of each cost over the updates and ranks; to be called by all ranks."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = self._comm.mean(self._stacked(names), "log")
        return {name: float(value / self._updates) for name, value in zip(names, means, strict=True)}

    def samples(self) -> str:
        """The digest of all samples of the run, in 16 hex digits; to be called by all ranks."""
        parts = self._comm.gather(torch.tensor([self._digest]), "samples").tolist()
        self._samples, self._digest = (self._samples + sum(parts)) % DIGESTS, 0
        return f"{self._samples:016x}"

    def clear(self) -> None:
        """Begin the next line of the log."""
        self._sums.clear()
        self._updates = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resume goes on from, the same on all ranks, which all call it."""
        names = sorted(self._sums)
        sums = self._comm.gather(self._stacked(names)[None], "sums") if names else torch.empty(self._comm.size, 0)
        return {"names": names, "sums": sums, "summed": self._updates, "samples": self.samples()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: each rank from its own sums; from their mean, where ranks have come or gone."""
        sums = state["sums"]
        own = sums[self._comm.rank] if len(sums) == self._comm.size else sums.mean(0)
        self._sums.update((name, own[at].to(self._device, copy=True)) for at, name in enumerate(state["names"]))
        self._updates = state["summed"]
        self._samples, self._digest = int(state["samples"], 16), 0

    def _stacked(self, names: list[str]) -> Tensor:
        return torch.stack([self._sums[name] for name in names]).cpu()
