"""The device of a rank: a GPU of its own or the CPU, and never one in place of the other in silence."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import torch

from config.errors import ConfigError
from train.distributed.comm import Comm

NVIDIA, NODES = Path("/proc/driver/nvidia"), Path("/dev")
"""What NVIDIA's driver tells about itself, and where it shows GPUs; a container without GPUs has no such node."""
HIDING = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES by which people and schedulers hide all GPUs, on purpose."""


def choose_device(wanted: str, comm: Comm) -> torch.device:
    """The device that this rank computes on; all ranks call it together.

    Args:
        wanted: "cpu", "cuda", or "auto": a GPU where the host has one.

    Raises:
        ConfigError: a GPU is wanted or there, and cannot be used; or two ranks share one.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if wanted == "cuda" or _has_gpu():
            raise ConfigError(f"device={wanted}: {_why_no_gpu()}; or compute without one: --device cpu")
        return torch.device("cpu")
    if comm.size > 1 and not comm.takes_gpu_tensors:
        raise ConfigError(f"device={wanted}: Horovod was built here without NCCL, so ranks cannot average what lies on "
                          "GPUs; run `make setup` where a CUDA toolkit is, or compute without GPUs: --device cpu")
    index = comm.local_rank % torch.cuda.device_count()  # a scheduler may show each rank only its own
    own = [socket.gethostname(), str(torch.cuda.get_device_properties(index).uuid)]
    sharing = [rank for rank, other in enumerate(comm.all_gather_object(own)) if other == own]
    if len(sharing) > 1:
        ranks = ", ".join(map(str, sharing))
        raise ConfigError(f"device={wanted}: ranks {ranks} of host {own[0]} would share one GPU; there are "
                          f"{torch.cuda.device_count()} to be seen: start at most as many ranks on a host")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> dict[str, str | float]:
    """What a run notes of its device: name, and for a GPU its memory in GiB, the driver and the CUDA of torch."""
    if device.type != "cuda":
        return {"device": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {"device": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": _driver(), "cuda": str(torch.version.cuda)}  # fmt: skip


def _has_gpu() -> bool:
    """Whether this host shows a GPU that nobody has hidden from this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in HIDING and any(NODES.glob("nvidia[0-9]*"))


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return "this torch was built without CUDA; install its CUDA build in .venv"
    if not (NVIDIA / "version").exists():
        return "this host has no driver of NVIDIA; install one"
    return f"torch's CUDA {torch.version.cuda} cannot use the driver {_driver()}; install a newer driver"


def _driver() -> str:
    """The version of NVIDIA's driver, such as 580.65.06; "unknown" where it does not tell."""
    try:
        text = (NVIDIA / "version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\s(\d+\.[\d.]+)\s", text)
    return found[1] if found else "unknown"
