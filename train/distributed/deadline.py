"""The time limit of a job: shortly before it, the run is told to save and leave."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping

from config.durations import seconds

END = "SLURM_JOB_END_TIME"
"""Seconds since 1970 at which SLURM ends the job: its own variable, set by scripts/slurm where SLURM is too old."""
LEAD_S = 120.0
"""Before the end of the job, for an update and a checkpoint; of a short job, a tenth of what is left."""


def set_alarm(stop_after: str, environ: Mapping[str, str] = os.environ) -> float | None:
    """Have SIGALRM sent to this process when it is time to save and leave; returns in how many seconds.

    Args:
        stop_after: a span from now on (see `config.durations`); "" = as long as the scheduler allows, None without one.
    """
    left = seconds(stop_after) if stop_after else None
    if environ.get(END, "").isdigit():
        given = int(environ[END]) - time.time()
        allowed = max(given - min(LEAD_S, given / 10), 0.001)
        left = allowed if left is None else min(left, allowed)
    if left is not None:
        signal.setitimer(signal.ITIMER_REAL, left)
    return left
