"""How ranks talk: alone, through Horovod, or through torch.distributed; the environment says which."""

from __future__ import annotations

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from config.errors import ConfigError

Wait = Callable[[], None]


class LostRank(RuntimeError):
    """Another rank is gone, so the collective that this one waited for cannot end."""


class Comm(ABC):
    """The collectives that the rest uses. Solo is a real implementation, not a special case."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def device(self) -> torch.device:
        """The accelerator of this rank, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
        return torch.device("cuda", torch.cuda.current_device())

    @abstractmethod
    def mean_async_(self, tensor: Tensor, name: str) -> Wait:
        """Start replacing `tensor` by its mean over ranks; the result is there once the returned call is made.

        `name` must be the same on all ranks and differ between reductions in flight.
        """

    @abstractmethod
    def gather(self, tensor: Tensor, name: str) -> Tensor:
        """The rows of all ranks' `tensor [n, ...]`, rank after rank; `n` may differ."""

    @abstractmethod
    def broadcast_(self, tensor: Tensor, name: str) -> None:
        """Replace `tensor` by that of rank 0."""

    @abstractmethod
    def lost(self, error: BaseException) -> bool:
        """Whether `error` is this library's way of saying that another rank is gone."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group in order."""

    def share(self, value: Any) -> list[Any]:
        """The JSON values of all ranks, in the order of ranks."""
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self.gather(torch.tensor([len(text)]), "share.length")
        return [json.loads(bytes(part.tolist())) for part in self.gather(text, "share.text").split(lengths.tolist())]

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

    def mean_async_(self, tensor: Tensor, name: str) -> Wait:  # noqa: ARG002
        return lambda: None

    def gather(self, tensor: Tensor, name: str) -> Tensor:  # noqa: ARG002
        return tensor

    def broadcast_(self, tensor: Tensor, name: str) -> None:
        pass

    def lost(self, error: BaseException) -> bool:  # noqa: ARG002
        return False

    def close(self) -> None:
        pass


class Horovod(Comm):
    """Ranks started by horovodrun."""

    def __init__(self) -> None:
        try:
            import horovod.torch as hvd
            from horovod.common.exceptions import HorovodInternalError
        except ImportError as error:
            raise ConfigError("horovodrun started this, but horovod is not installed here; run `make setup`") from error
        hvd.init()
        self._hvd, self._error = hvd, HorovodInternalError
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self.local_size = hvd.local_size()

    def mean_async_(self, tensor: Tensor, name: str) -> Wait:
        handle = self._hvd.allreduce_async_(tensor, name=name, op=self._hvd.Average)
        return lambda: self._hvd.synchronize(handle)

    def gather(self, tensor: Tensor, name: str) -> Tensor:
        # A thread of the library sizes what it gives back, which no other thread may do with an inference tensor.
        with torch.inference_mode(False):
            return self._hvd.allgather(tensor.detach().contiguous(), name=name)

    def broadcast_(self, tensor: Tensor, name: str) -> None:
        self._hvd.broadcast_(tensor, root_rank=0, name=name)

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, self._error)

    def close(self) -> None:
        self._hvd.shutdown()


class TorchDist(Comm):
    """Ranks started by torchrun."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def mean_async_(self, tensor: Tensor, name: str) -> Wait:  # noqa: ARG002
        work = self._dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            work.wait()
            tensor.div_(self.size)

        return wait

    def broadcast_(self, tensor: Tensor, name: str) -> None:  # noqa: ARG002
        self._dist.broadcast(tensor, 0)

    def gather(self, tensor: Tensor, name: str) -> Tensor:  # noqa: ARG002
        tensor = tensor.detach().contiguous()
        lengths = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(self.size)]
        self._dist.all_gather(lengths, torch.tensor([len(tensor)], device=tensor.device))
        longest = int(max(lengths))
        parts = [tensor.new_empty(longest, *tensor.shape[1:]) for _ in range(self.size)]
        padding = tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])
        self._dist.all_gather(parts, torch.cat([tensor, padding]))
        return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, self._dist.DistError | RuntimeError) and "onnection" in str(error)

    def close(self) -> None:
        self._dist.destroy_process_group()


def detect(environ: Mapping[str, str] = os.environ) -> Comm:
    """The group that this process was started in.

    Raises:
        ConfigError: a launcher's variables are there, but its library is not.
    """
    if "HOROVOD_SIZE" in environ or "OMPI_COMM_WORLD_SIZE" in environ:
        return Horovod()
    if "WORLD_SIZE" in environ and "MASTER_ADDR" in environ:
        return TorchDist()
    return Solo()


class Roll:
    """Who is where, so that a lost rank can be named by those who are left."""

    def __init__(self, comm: Comm) -> None:
        self._rank, self._host = comm.rank, socket.gethostname()
        self._members = comm.share([self._host, os.getpid()])

    def gone(self) -> str:
        """Which ranks of this host have ended, in words; empty where all run."""
        here = [(rank, pid) for rank, (host, pid) in enumerate(self._members) if host == self._host]
        return ", ".join(f"rank {rank} (host {self._host}, process {pid})" for rank, pid in here if not running(pid))

    def missing(self, patience_s: float = 2.0) -> str:
        """Which ranks are gone, in words; processes on this host are looked up for up to `patience_s`."""
        end = time.monotonic() + patience_s
        while True:
            gone = self.gone()
            if gone:
                return gone
            if time.monotonic() > end:
                others = sorted({host for host, _ in self._members} - {self._host})
                return f"a rank on {', '.join(others)}" if others else "a rank that still runs but has left the group"
            time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether a process of this host is alive; one that only waits to be reaped is not."""
    try:
        # As bytes: a signal handler may ask this in the middle of an import, when no codec can be loaded.
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
