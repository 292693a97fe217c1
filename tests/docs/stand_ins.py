"""What a reader of the documentation has and a test has not: pictures, captions, vocabularies; drawn instead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

SPLITS = ("train", "val", "test")


def stand_ins(drawn: Path) -> dict[str, Callable[[Path], None]]:
    """By the name that the pages call it, what makes it there; `drawn` is a set of make_scenes.py."""

    def copy(part: str) -> Callable[[Path], None]:
        source = drawn / part
        return lambda place: shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)  # type: ignore[return-value]

    return {
        "scenes": copy("."),
        ".demo/scenes": copy("."),
        "pictures": copy("pictures"),
        "captions.jsonl": copy("captions.jsonl"),
        "vocab.txt": copy("vocab.txt"),
        "bert-base-cased/vocab.txt": copy("vocab.txt"),
        "bert-base-uncased/vocab.txt": copy("vocab.txt"),
    }
