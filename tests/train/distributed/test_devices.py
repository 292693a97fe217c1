"""train/distributed/devices.py: a GPU of one's own, or the CPU where that is meant, or a line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from config.errors import ConfigError
from tests.ranks import on_ranks
from train.distributed import devices
from train.distributed.comm import Comm, Solo
from train.distributed.devices import choose_device, describe_device

Host = Callable[..., None]
VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: gcc 12.2.0\n"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    """Makes this host one with so many GPUs, as CUDA and the driver show them."""

    def make(gpus: int, usable: bool = True, cuda: str | None = "13.0", driver: bool = True) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(devices, "NVIDIA", tmp_path)
        monkeypatch.setattr(devices, "NODES", tmp_path)
        for number in range(gpus):
            (tmp_path / f"nvidia{number}").touch()
        if driver:
            (tmp_path / "version").write_text(VERSION)
        found = SimpleNamespace(name="H200", total_memory=141 * 2**30)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable and gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
        monkeypatch.setattr(torch.cuda, "get_device_properties",
                            lambda index: SimpleNamespace(uuid=f"GPU-{index}", **vars(found)))

    return make


def test_the_cpu_is_taken_where_it_is_asked_for_or_all_there_is(host: Host) -> None:
    host(0, driver=False)
    assert choose_device("auto", Solo()).type == choose_device("cpu", Solo()).type == "cpu"


def test_the_cpu_can_be_asked_for_where_a_gpu_is(host: Host) -> None:
    host(1)
    assert choose_device("cpu", Solo()).type == "cpu"
    assert choose_device("auto", Solo()) == torch.device("cuda", 0)


@pytest.mark.parametrize(("gpus", "options", "wanted", "why"), [
    (0, {"cuda": None, "driver": False}, "cuda", "device=cuda: this torch was built without CUDA; install its"),
    (0, {"driver": False}, "cuda", "device=cuda: this host has no driver of NVIDIA; install one; or .*--device cpu"),
    (1, {"usable": False}, "auto", r"torch's CUDA 13.0 cannot use the driver 580\.65\.06; install a newer"),
    (1, {"usable": False, "cuda": None}, "auto", "device=auto: this torch was built without CUDA"),
])  # fmt: skip
def test_a_gpu_that_cannot_be_used_is_no_cpu(
    gpus: int, options: dict[str, Any], wanted: str, why: str, host: Host
) -> None:
    host(gpus, **options)
    with pytest.raises(ConfigError, match=why):
        choose_device(wanted, Solo())


@pytest.mark.parametrize("hidden", devices.HIDING)
def test_gpus_that_are_hidden_on_purpose_are_none(hidden: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host(1, usable=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert choose_device("auto", Solo()).type == "cpu"
    with pytest.raises(ConfigError, match="device=cuda: "):
        choose_device("cuda", Solo())


def test_each_rank_has_a_gpu_of_its_own(host: Host) -> None:
    host(2)

    def choose(comm: Comm) -> torch.device:
        comm.local_rank = comm.rank
        return choose_device("auto", comm)

    assert on_ranks(2, choose) == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_ranks_that_would_share_a_gpu_are_told(host: Host) -> None:
    host(2)

    def choose(comm: Comm) -> str:
        comm.local_rank = comm.rank
        with pytest.raises(ConfigError) as told:
            choose_device("cuda", comm)
        return str(told.value)

    found = on_ranks(4, choose)
    assert "ranks 0, 2 of host" in found[0]
    assert "ranks 1, 3 of host" in found[1]
    assert "2 to be seen: start at most as many ranks on a host" in found[3]


def test_ranks_that_cannot_exchange_gpu_tensors_are_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host(2)
    comm = Solo()
    comm.size = 2
    monkeypatch.setattr(Solo, "takes_gpu_tensors", False)
    with pytest.raises(ConfigError, match=r"Horovod was built here without NCCL.*make setup.*--device cpu"):
        choose_device("auto", comm)


def test_a_device_is_described_with_what_an_error_report_needs(host: Host) -> None:
    assert describe_device(torch.device("cpu")) == {"device": "cpu"}
    host(1)
    assert describe_device(torch.device("cuda", 0)) == {
        "device": "H200", "memory_gib": 141.0, "driver": "580.65.06", "cuda": "13.0",
    }  # fmt: skip
