"""train/distributed/host.py: cores shared out, and freed memory kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.support import ROOT
from train.distributed.host import share_cores


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


FAULTS = """
import resource, sys, torch
from train.distributed.host import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size_mb in range(1, 31):
    torch.ones(size_mb << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_not_faulted_in_again() -> None:
    """In processes of their own: what other tests left on the heap decides where memory comes from."""
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, *more], cwd=ROOT, capture_output=True, check=True).stdout)
        for more in ([], ["keep"])
    )
    assert plain > 100_000  # 465 MB in pages of 4 kB: each larger tensor is mapped anew
    assert kept < plain / 4
