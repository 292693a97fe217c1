"""What an update sends: every collective of the real code, counted by a `Comm` that looks on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from train.distributed.comm import Comm, Solo, Wait

Kind = Literal["mean", "gather", "broadcast"]


@dataclass
class Sent:
    """One collective, as this rank took part in it.

    Attributes:
        size: bytes that this rank put in.
        alone: it was waited for as soon as it was started, so that the work stood still meanwhile.
    """

    kind: Kind
    name: str
    size: int
    alone: bool


class Pretended(Solo):
    """One process that computes what one of `size` ranks does, as if all others had sent the same as it."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, rank, size

    def _gather(self, tensor: Tensor, name: str) -> Tensor:  # noqa: ARG002
        return torch.cat([tensor.detach()] * self.size)


class Counted(Comm):
    """Hands everything on to another `Comm` and notes it; `taken` gives the notes since it was last called."""

    def __init__(self, inner: Comm) -> None:
        self.rank, self.size = inner.rank, inner.size
        self.local_rank, self.local_size = inner.local_rank, inner.local_size
        self._inner, self._sent = inner, list[Sent]()
        self._waits = 0

    def taken(self) -> list[Sent]:
        """Every collective since the last call, in the order in which they were started."""
        sent, self._sent = self._sent, []
        return sent

    def _note(self, kind: Kind, tensor: Tensor, name: str, alone: bool = True) -> Sent:
        self._sent.append(Sent(kind, name, tensor.numel() * tensor.element_size(), alone))
        return self._sent[-1]

    def _mean_async_(self, tensor: Tensor, name: str) -> Wait:
        note, wait, waits = self._note("mean", tensor, name, False), self._inner.mean_async_(tensor, name), self._waits

        def waited() -> None:
            note.alone = self._sent[-1] is note and self._waits == waits
            self._waits += 1
            wait()

        return waited

    def _gather(self, tensor: Tensor, name: str) -> Tensor:
        self._note("gather", tensor, name)
        return self._inner.gather(tensor, name)

    def _broadcast_(self, tensor: Tensor, name: str, root: int) -> None:
        self._note("broadcast", tensor, name)
        self._inner.broadcast_(tensor, name, root)

    def means_lost_rank(self, error: BaseException) -> bool:
        return self._inner.means_lost_rank(error)

    def close(self) -> None:
        self._inner.close()
