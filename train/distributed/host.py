"""Host resources of a rank: its share of the cores, and freed memory that is kept."""

from __future__ import annotations

import ctypes
import os

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20


def share_cores(local_size: int) -> None:
    """Give each of `local_size` ranks of this host its part of the cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free: given back and taken again, every page is zeroed and faulted in once more.

    Packed batches differ in size from step to step, so that a third of a small model's time on a CPU goes there.
    Other C libraries have no such switch and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
