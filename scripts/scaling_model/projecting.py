"""An update's time on many GPUs from what it computes and sends, for given hardware."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scripts.scaling_model.fitting import Traffic
from scripts.scaling_model.sizing import Work


@dataclass(frozen=True)
class Gpu:
    """Operations a second at best, in half precision and in float32, and the share of them that is reached."""

    tflops: float
    tflops32: float
    efficiency: float

    def seconds(self, operations: float, half: bool) -> float:
        return operations / (1e12 * self.efficiency * (self.tflops if half else self.tflops32))


@dataclass(frozen=True)
class Links:
    """A network.

    Attributes:
        name: what the tables call it.
        gpus_per_node: GPUs that share a host and its link to the others.
        intra_gbs, inter_gbs: gigabytes a second that a GPU passes on within a host, and a host to the next.
        latency_us: microseconds of a hop from host to host.
        host_s, tensor_s: what the software takes for a message, and for each tensor in it.
    """

    name: str
    gpus_per_node: int
    intra_gbs: float
    inter_gbs: float
    latency_us: float
    host_s: float
    tensor_s: float

    def message(self, ranks: int) -> float:
        """Seconds of a message however small: the software's share, and hops up a tree of hosts and down again."""
        hosts = math.ceil(ranks / self.gpus_per_node)
        return self.host_s + 2 * math.ceil(math.log2(hosts)) * self.latency_us * 1e-6

    def byte_s(self, ranks: int) -> float:
        """Seconds of a byte on the ring: its slowest link decides."""
        slowest = self.intra_gbs if ranks <= self.gpus_per_node else min(self.intra_gbs, self.inter_gbs)
        return 1e-9 / slowest


@dataclass(frozen=True)
class Projection:
    """An update on so many GPUs, its parts in seconds.

    Attributes:
        compute_s: what no link can change.
        alone_s: collectives that the work stands still for.
        behind_s: the reduction of the gradients.
        window_s: the backward pass that this may hide behind.
        gathered: bytes of the largest tensor that every GPU holds of all.
    """

    work: str
    network: str
    gpus: int
    items: int
    compute_s: float
    alone_s: float
    behind_s: float
    window_s: float
    gathered: float
    one_gpu_s: float

    @property
    def slow_s(self) -> float:
        """The update if nothing is hidden."""
        return self.compute_s + self.alone_s + self.behind_s

    @property
    def fast_s(self) -> float:
        """The update if as much of the reduction is hidden as there is backward pass to hide it."""
        return self.compute_s + self.alone_s + max(0.0, self.behind_s - self.window_s)

    def efficiency(self, seconds: float) -> float:
        """Items a second of a GPU, beside those of one that is alone."""
        return self.one_gpu_s / seconds

    def rate(self, seconds: float) -> float:
        """Items a second of all GPUs."""
        return self.gpus * self.items / seconds

    def talking(self, seconds: float) -> float:
        """Share of the update in which the GPU does not compute."""
        return 1 - self.compute_s / seconds


def project(work: Work, gpus: int, gpu: Gpu, links: Links) -> Projection:
    """One update on so many GPUs, each with `work.items` of its own."""
    compute = gpu.seconds(work.operations + (gpus - 1) * work.with_others, work.half)
    traffic = Traffic.of(work.sent(gpus), gpus)
    alone, behind = 0.0, 0.0
    if gpus > 1:
        message, byte = links.message(gpus), links.byte_s(gpus)
        alone = traffic.waits * message + traffic.alone * byte
        behind = traffic.fused * message + (traffic.tensors - traffic.waits) * links.tensor_s + traffic.behind * byte
    one = gpu.seconds(work.operations, work.half)
    window = compute * work.last_backward
    return Projection(work.name, links.name, gpus, work.items, compute, alone, behind, window, traffic.largest, one)
