"""Elastic runs on this host: a rank at each of two names for it, ranks that are killed, and what that came to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import ranks_below, started, with_patience
from tests.support import events

HOSTS = "#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n"
SETTINGS = {"optim": {"global_batch_size": 4, "learning_rate": 3e-3}, "matcher": {"initializer_range": 0.2},
            "output": {"log_steps": 1},
            "cluster": {"elastic": True, "commit_steps": 5, "stall_timeout": 60.0}}  # fmt: skip
"""Of a tiny run: each update is logged, so that those that were made twice can be counted."""


@contextmanager
def elastic(folder: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python words...` on one or two elastic ranks, of which a lost one comes back after some seconds."""
    hosts = folder / "hosts.sh"
    hosts.write_text(HOSTS)
    hosts.chmod(0o755)
    launcher = [str(Path(sys.executable).parent / "horovodrun"), "-np", "2", "--min-np", "1", "--max-np", "2",
                "--host-discovery-script", str(hosts), "--network-interfaces", "lo",
                "--blacklist-cooldown-range", "1", "2", sys.executable, *map(str, words)]  # fmt: skip
    with started(launcher, folder / "log") as process:
        yield process


def kill_newest_rank(process: subprocess.Popen[bytes]) -> bool:
    """Kill the rank that was started last; whether there was one."""
    ranks = sorted(ranks_below(process).values(), key=lambda rank: rank.create_time())
    for rank in ranks[-1:]:
        with_patience(rank.kill)
    return bool(ranks)


def worlds(folder: Path) -> list[int]:
    """How many ranks there were, each time that a group began."""
    return [event["world"] for event in events(folder, "start")]


def steps_made(folder: Path) -> list[int]:
    """The step of each line of the log, in the order of writing; whole lines only."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [event["step"] for event in found if event["event"] == "train"]


def samples(folder: Path) -> dict[int, set[str]]:
    """The marks of the samples that were taken up to each step, however often it was made."""
    found: dict[int, set[str]] = {}
    for event in events(folder, "train"):
        found.setdefault(event["step"], set()).add(event["samples"])
    return found
