"""Limits of a process's address space, into which LMDB maps whole files."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path


def is_exhausted(error: BaseException) -> bool:
    """Whether an error of the operating system says that no more can be mapped."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM


def too_little(needed: int) -> str:
    """What to say where `needed` bytes cannot be mapped: the limit there is, and one that would do."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return f"{needed} bytes cannot be mapped into memory; use a machine with more"
    enough = -(-(needed + _mapped()) // 1024)
    return (
        f"{needed} bytes cannot be mapped, the address space is limited to {limit // 1024} KiB; set `ulimit -v "
        f"{enough}` or more, or unlimited"
    )


def _mapped() -> int:
    """Bytes of address space that this process uses now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
