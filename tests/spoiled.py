"""Stores with one damaged record. `python -m tests.spoiled STORE KIND NAME` damages one in place."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from tests.support import ROOT, RULE

IMAGE, CAPTION = "a_000005.npz", "50"
"""What is damaged; the caption is the only one of that image."""


def copied(stores: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """The stores once more and without their seals, to be changed as by one who knows what he does."""
    texts, images = (Path(shutil.copytree(store, folder / store.name)) for store in stores)
    for seal in (*texts.rglob("seal.json"), *images.rglob("seal.json")):
        seal.unlink()
    return texts, images


def spoiled(stores: tuple[Path, Path], folder: Path, kind: str = "image") -> tuple[Path, Path]:
    """A copy of the stores with one damaged image or caption.

    Another process does the damage: one that has the file mapped would see it at once.
    """
    texts, images = (Path(shutil.copytree(store, folder / store.name)) for store in stores)
    what = (images, kind, IMAGE) if kind == "image" else (texts, kind, CAPTION)
    subprocess.run([sys.executable, "-m", "tests.spoiled", *what], cwd=ROOT, check=True)
    return texts, images


def damage(store: Path, kind: str, name: str) -> None:
    """Flip the bits of one byte in the middle of a record."""
    reader = LmdbStore(ImageStore(store, RULE).path if kind == "image" else store)
    record = bytes(reader.get(name))
    path = next(store.rglob("data.mdb"))
    middle = len(record) // 2
    at = path.read_bytes().index(record) + middle
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([record[middle] ^ 0xFF]))


if __name__ == "__main__":
    damage(Path(sys.argv[1]), *sys.argv[2:])
