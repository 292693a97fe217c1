"""What a reader of the documentation has and a test has not: pictures, captions, vocabularies; drawn instead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

FROM_SCENES = {
    ".demo/scenes": ".",
    "scenes": ".",
    "pictures": "pictures",
    "captions.jsonl": "captions.jsonl",
    "vocab.txt": "vocab.txt",
    "bert-base-cased/vocab.txt": "vocab.txt",
    "bert-base-uncased/vocab.txt": "vocab.txt",
}
"""As the pages call it, and which part of a drawn set is put there."""


def stand_ins(scenes: Path) -> dict[str, Callable[[Path], None]]:
    """By the name that the pages call it: what makes it at a path. `scenes` is a set of make_scenes.py."""
    return {name: lambda place, source=scenes / part: copy(source, place) for name, part in FROM_SCENES.items()}


def copy(source: Path, place: Path) -> None:
    """A file or a folder at another place."""
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copy(source, place)
