"""The interface of a process group, and the group of one process."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from config.errors import DataError
from train.distributed.progress import Progress

Wait = Callable[[], None]


class RegroupRequested(RuntimeError):
    """All ranks have agreed to make their group anew."""


class Comm(ABC):
    """The collectives that the rest uses. Solo is a real implementation, not a special case."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    elastic = False
    """Whether a lost rank ends nothing: `regroup` gives the group of those who are left."""
    changed = False
    """Whether others have come, or some are about to go, so that the group should be made anew."""

    def regroup(self) -> Comm:
        """The group of all who are there now, in place of this one."""
        raise NotImplementedError(f"{type(self).__name__} is not elastic")

    @property
    def takes_gpu_tensors(self) -> bool:
        """Whether collectives can be given what lies on GPUs."""
        return True

    @cached_property
    def progress(self) -> Progress:
        """Where this rank is, and how long it has waited for the others."""
        return Progress()

    def mean_async_(self, tensor: Tensor, name: str) -> Wait:
        """Start replacing `tensor` by its mean over ranks; the result is there once the returned call is made.

        `name` must be the same on all ranks and differ between reductions in flight.
        """
        with self.progress.in_collective(name, tensor):  # where it cannot even start, that is told of it too
            wait = self._mean_async_(tensor, name)

        def waited() -> None:
            with self.progress.in_collective(name, tensor):
                wait()

        return waited

    def gather(self, tensor: Tensor, name: str) -> Tensor:
        """The rows of all ranks' `tensor [n, ...]`, rank after rank; `n` may differ."""
        with self.progress.in_collective(name):
            return self._gather(tensor, name)

    def broadcast_(self, tensor: Tensor, name: str, root: int = 0) -> None:
        """Replace `tensor` by that of rank `root`."""
        with self.progress.in_collective(name, tensor):
            self._broadcast_(tensor, name, root)

    @abstractmethod
    def _mean_async_(self, tensor: Tensor, name: str) -> Wait:
        """`mean_async_` as this library does it."""

    @abstractmethod
    def _gather(self, tensor: Tensor, name: str) -> Tensor:
        """`gather` as this library does it."""

    @abstractmethod
    def _broadcast_(self, tensor: Tensor, name: str, root: int) -> None:
        """`broadcast_` as this library does it."""

    @abstractmethod
    def means_lost_rank(self, error: BaseException) -> bool:
        """Whether `error` is this library's way of saying that another rank is gone."""

    def can_regroup_after(self, error: BaseException) -> bool:
        """Whether `error` only means that the group is to be made anew."""
        return self.elastic and (isinstance(error, RegroupRequested) or self.means_lost_rank(error))

    @abstractmethod
    def close(self) -> None:
        """Leave the group in order."""

    def all_gather_object(self, value: Any) -> list[Any]:
        """The JSON values of all ranks, in the order of ranks."""
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self.gather(torch.tensor([len(text)]), "share.length")
        return [json.loads(bytes(part.tolist())) for part in self.gather(text, "share.text").split(lengths.tolist())]

    def run_on_first(self, find: Callable[[], str]) -> str:
        """What rank 0 finds, on all ranks, none of which looks for itself.

        Raises:
            DataError: rank 0 does.
        """
        found = wrong = ""
        if self.rank == 0:
            try:
                found = find()
            except DataError as error:
                wrong = str(error)
        found, wrong = self.all_gather_object([found, wrong])[0]
        if wrong:
            raise DataError(wrong)
        return found

    def mean(self, value: Tensor, name: str) -> Tensor:
        """The mean of `value` over ranks, as a new tensor."""
        value = value.detach().clone()
        self.mean_async_(value, name)()
        return value

    def sum(self, value: Tensor, name: str) -> Tensor:
        """The sum of `value` over ranks, as a new tensor."""
        return self.mean(value, name).mul_(self.size)

    def barrier(self, name: str) -> None:
        """Wait until every rank is here."""
        self.mean_async_(torch.zeros(1), f"barrier.{name}")()


class Solo(Comm):
    """One process."""

    def _mean_async_(self, tensor: Tensor, name: str) -> Wait:  # noqa: ARG002
        return lambda: None

    def _gather(self, tensor: Tensor, name: str) -> Tensor:  # noqa: ARG002
        return tensor

    def _broadcast_(self, tensor: Tensor, name: str, root: int) -> None:
        pass

    def means_lost_rank(self, error: BaseException) -> bool:  # noqa: ARG002
        return False

    def close(self) -> None:
        pass
