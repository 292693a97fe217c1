"""Process groups of Horovod and torch.distributed, chosen by the launcher's environment."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from config.errors import ConfigError, Failure
from train.distributed.comm import Comm, Solo, Wait
from train.distributed.timeouts import run_with_timeout

RENDEZVOUS_S = 600.0
"""How long the ranks of an elastic group may take to meet: as long as Horovod's launcher waits for hosts."""
RETRY_S = 0.5


class RankRemoved(RuntimeError):
    """The launcher does not count on this rank any more; the others go on."""


class Horovod(Comm):
    """Ranks started by horovodrun."""

    def __init__(self) -> None:
        try:
            import horovod.torch as hvd
            from horovod.common.exceptions import HorovodInternalError
        except ImportError as error:
            raise ConfigError("horovodrun started this, but horovod is not installed here; run `make setup`") from error
        self._hvd, self._error = hvd, HorovodInternalError
        # What Horovod would fuse depends on timing, and sums of three and more ranks depend on what is fused.
        os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        self._rendezvous()
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self.local_size = hvd.local_size()

    def _rendezvous(self) -> None:
        """Find the others; raises Failure where they do not come."""
        try:
            self._hvd.init()
        except ValueError as error:
            raise Failure(f"the ranks did not find each other ({_read_init_error()})") from error

    @property
    def takes_gpu_tensors(self) -> bool:
        return bool(self._hvd.nccl_built())

    def _mean_async_(self, tensor: Tensor, name: str) -> Wait:
        handle = self._hvd.allreduce_async_(tensor, name=name, op=self._hvd.Average)
        return lambda: self._hvd.synchronize(handle)

    def _gather(self, tensor: Tensor, name: str) -> Tensor:
        # A thread of the library sizes what it gives back, which no other thread may do with an inference tensor.
        with torch.inference_mode(False):
            return self._hvd.allgather(tensor.detach().contiguous(), name=name)

    def _broadcast_(self, tensor: Tensor, name: str, root: int) -> None:
        self._hvd.broadcast_(tensor, root_rank=root, name=name)

    def means_lost_rank(self, error: BaseException) -> bool:
        return isinstance(error, self._error)

    def close(self) -> None:
        self._hvd.shutdown()


class ElasticHorovod(Horovod):
    """Ranks that come and go; started by horovodrun with --min-np and a script that tells which hosts there are."""

    elastic = True

    def __init__(self) -> None:
        super().__init__()
        from horovod.common.elastic import notification_manager

        self._notified_by = notification_manager
        notification_manager.init()
        notification_manager.register_listener(self)

    def _rendezvous(self) -> None:
        """Find the others, of whom some may die before they come: then the launcher promises others.

        Raises:
            Dismissed: this rank is not wanted any more.
            Failure: that takes too long; a thread is left behind, waiting for them.
        """
        end = time.monotonic() + RENDEZVOUS_S
        while True:
            try:
                return run_with_timeout(end - time.monotonic(), self._hvd.init)
            except TimeoutError as error:
                raise Failure(f"ranks of this elastic run did not meet within {RENDEZVOUS_S:.0f} s") from error
            except (ValueError, self._error) as error:
                self._hvd.shutdown()
                why = _read_init_error()
                if "removed from elastic job" in why:
                    raise RankRemoved("the launcher has no place for this rank any more; the others go on") from error
                sys.stderr.write(f"a rank of this elastic run did not find the others, and tries again ({why})\n")
                time.sleep(RETRY_S)

    def on_hosts_updated(self, timestamp: int, result: int) -> None:  # noqa: ARG002
        """Called by Horovod, in a thread of its own, when a host has come or is about to go."""
        self.changed = True

    def regroup(self) -> Comm:
        """The group of all who are there now; waits until they are."""
        self._notified_by.remove_listener(self)
        self._hvd.shutdown()
        return ElasticHorovod()


def _read_init_error() -> str:
    """What Horovod could not begin for. It says so in the environment of C, of which os.environ is an older copy."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return (getenv(b"HOROVOD_INIT_ERROR") or b"").decode(errors="replace")


class TorchDistributed(Comm):
    """Ranks started by torchrun."""

    def __init__(self) -> None:
        import torch.distributed as dist

        # Its functions keep the group of the moment as a default. Imported later, as transformers does, they would
        # keep this one alive past its end, whose threads then abort the process while it exits.
        import torch.distributed.nn.functional

        self._dist = dist
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def _mean_async_(self, tensor: Tensor, name: str) -> Wait:  # noqa: ARG002
        work = self._dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            work.wait()
            tensor.div_(self.size)

        return wait

    def _broadcast_(self, tensor: Tensor, name: str, root: int) -> None:  # noqa: ARG002
        self._dist.broadcast(tensor, root)

    def _gather(self, tensor: Tensor, name: str) -> Tensor:  # noqa: ARG002
        tensor = tensor.detach().contiguous()
        lengths = torch.empty(self.size, dtype=torch.int64, device=tensor.device)
        self._dist.all_gather_into_tensor(lengths, torch.tensor([len(tensor)], device=tensor.device))
        counts = lengths.tolist()  # the only wait for a device
        longest = max(counts)
        room = tensor.new_empty(self.size * longest, *tensor.shape[1:])
        padding = tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])
        self._dist.all_gather_into_tensor(room, torch.cat([tensor, padding]) if len(padding) else tensor)
        if min(counts) == longest:
            return room
        return torch.cat([part[:count] for part, count in zip(room.split(longest), counts, strict=True)])

    def means_lost_rank(self, error: BaseException) -> bool:
        return isinstance(error, self._dist.DistError | RuntimeError) and "onnection" in str(error)

    def close(self) -> None:
        self._dist.destroy_process_group()


def join_process_group(environ: Mapping[str, str] = os.environ) -> Comm:
    """The group that this process was started in.

    Raises:
        ConfigError: a launcher's variables are there, but its library is not.
    """
    if environ.get("HOROVOD_ELASTIC") == "1":
        return ElasticHorovod()
    if "HOROVOD_SIZE" in environ or "OMPI_COMM_WORLD_SIZE" in environ:
        return Horovod()
    if "WORLD_SIZE" in environ and "MASTER_ADDR" in environ:
        return TorchDistributed()
    return Solo()
