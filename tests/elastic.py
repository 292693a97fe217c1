"""Elastic runs on this host: a rank at each of two names for it, ranks that are killed, and what that came to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.processes import rank_of, started, with_patience
from tests.support import events

HOSTS = "localhost:1\n127.0.0.1:1\n"
SETTINGS = {"optim": {"global_batch_size": 4, "learning_rate": 3e-3}, "matcher": {"initializer_range": 0.2},
            "output": {"log_steps": 1},
            "cluster": {"elastic": True, "commit_steps": 5, "stall_timeout": 60.0}}  # fmt: skip
"""Of a tiny run: each update is logged, so that those that were made twice can be counted."""


@contextmanager
def elastic(folder: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python words...` on one or two elastic ranks, of which a lost one comes back after some seconds.

    The file `hosts` in `folder` names the hosts that there are; it may be changed.
    """
    (folder / "hosts").write_text(HOSTS)
    script = folder / "hosts.sh"
    script.write_text(f"#!/bin/sh\ncat '{folder}/hosts'\n")
    script.chmod(0o755)
    launcher = [str(Path(sys.executable).parent / "horovodrun"), "-np", "2", "--min-np", "1", "--max-np", "2",
                "--host-discovery-script", str(script), "--network-interfaces", "lo",
                "--blacklist-cooldown-range", "1", "2", "--gloo-timeout-seconds", "10",
                sys.executable, *map(str, words)]  # fmt: skip
    with started(launcher, folder / "log") as process:
        yield process


def ranks(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The ranks, the oldest first; a number of theirs may be that of an older rank that has another now."""
    children = psutil.Process(process.pid).children(recursive=True)
    found = {child.pid: child for child in children if rank_of(child) is not None}
    return sorted((child for child in found.values() if child.ppid() not in found), key=lambda one: one.create_time())


def kill_newest_rank(process: subprocess.Popen[bytes]) -> bool:
    """Kill the rank that was started last; whether there was one."""
    newest = ranks(process)[-1:]
    for rank in newest:
        with_patience(rank.kill)
    return bool(newest)


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
