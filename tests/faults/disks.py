"""Disks that are small or may not be written to, where this machine lets one be mounted; else tests skip in words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT, environment

WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner", "--inh-caps", "-all")
"""A root that has to ask for permission like anybody."""


def mounted(*words: str | Path) -> None:
    """Mount, or skip the test."""
    if os.geteuid() != 0 or subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root, and a container that lets it")


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of this size at `folder`."""
    folder.mkdir(exist_ok=True)
    mounted("-t", "tmpfs", "-o", f"size={kilobytes}K", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def resize(folder: Path, kilobytes: int) -> None:
    """Make room on such a disk."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}K", folder], check=True)


@contextmanager
def read_only(folder: Path, at: Path) -> Iterator[Path]:
    """What is in `folder`, at another place and not to be written to."""
    at.mkdir()
    mounted("--bind", folder, at)
    try:
        mounted("-o", "remount,bind,ro", at)
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def without_rights(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program as one whom permissions bind."""
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and there is no setpriv to make it less than that")
    lesser = WITHOUT_RIGHTS if os.geteuid() == 0 else ()
    return subprocess.run([*lesser, sys.executable, *map(str, words)], cwd=ROOT, env=environment(), capture_output=True,
                          text=True, timeout=300, check=False)
