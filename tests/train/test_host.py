"""train/host.py: cores shared out, and freed memory kept."""

from __future__ import annotations

import os
import resource

import pytest
import torch

from train.host import keep_freed_memory, share_cores


def test_cores_are_shared_out_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        share_cores(3)
        assert torch.get_num_threads() == 2
        share_cores(60)
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        share_cores(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_freed_memory_is_not_faulted_in_again() -> None:
    keep_freed_memory()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(1 << 21)  # 8 MB, over glibc's own threshold
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 100  # of 2,048 pages
