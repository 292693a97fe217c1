"""What a path holds: a store, a run, a checkpoint, or another file, recognised by its content.

Messages say it where another kind was wanted. Nothing but names is looked at, and the keys of a `config.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from config.hints import ALIKE

CONFIG, WEIGHTS, DATA, CHECKPOINTS = "config.json", "model.safetensors", "data.mdb", "ckpt"
OF_TEXTS = frozenset({"id2len.json", "txt2img.json", "img2txts.json"})
OF_REGIONS = ("native_", "feat_", "all")
FILES = {
    ".npz": "a file of features", ".npy": "an array", ".safetensors": "a file of weights", ".pt": "a file of weights",
    ".pth": "a file of weights", ".bin": "a file of weights", ".jsonl": "a file of JSON lines", ".tar": "an archive",
}  # fmt: skip
PACKED_BY = {
    ".npz": ("feature files (.npz)", "pack them with scripts/build_imgdb.py npz"),
    ".jpg": ("pictures", "pack them with scripts/build_imgdb.py pictures, or their regions with build_imgdb.py jpeg"),
    ".npy": ("arrays (.npy)", "pack features of VSRN, SCAN and BFAN with scripts/build_imgdb.py precomp"),
}
MOST = 1000
"""Entries of a folder that are looked at."""
SHOWN = 4


class Kind(Enum):
    """What a path can be."""

    NOTHING = "nothing"
    TEXTS = "a text store"
    IMAGES = "an image store"
    RUN = "a run's output folder"
    CHECKPOINT = "a checkpoint"
    SETTINGS = "a config file"
    FILE = "a file"
    OTHER = "a folder"


class PathContent(NamedTuple):
    """What is at a path, in words, and which name may have been meant; the latter is '' where that cannot be told.

    `leads` tells of which kinds the thing is that one has after the remedy.
    """

    kind: Kind
    words: str
    remedy: str = ""
    leads: tuple[Kind, ...] = ()

    @property
    def clause(self) -> str:
        """The words with their verb: "is a text store", "does not exist"."""
        return f"{'does' if self.kind is Kind.NOTHING else 'is'} {self.words}"

    def advice(self, otherwise: str, *wanted: Kind) -> str:
        """The remedy where it leads to something that is wanted; anything else would be refused in its turn."""
        return self.remedy if self.remedy and set(self.leads) & set(wanted) else otherwise


def describe_mismatch(path: Path, wanted: Kind, otherwise: str) -> str:
    """What a path is that should have been of another kind, and how to mend it: `otherwise` where it does not tell.

    It goes on from a colon: "it is an image store of regions (native_all); are text and image stores swapped?".
    """
    place = inspect_path(path)
    remedy = place.advice(otherwise, wanted)
    if {place.kind, wanted} == {Kind.TEXTS, Kind.IMAGES}:
        remedy = "are text and image stores swapped?"
    return f"it {place.clause}; {remedy}"


def run_at(path: Path) -> Path:
    """The output folder that a path stands for: itself, or the one whose config.json it is."""
    return path.parent if path.name == CONFIG and inspect_path(path.parent).kind is Kind.RUN else path


def inspect_path(path: Path) -> PathContent:
    """What is at `path`."""
    if path.is_dir():
        return _folder(path)
    return _file(path) if path.exists() else _nothing(path)


def _nothing(path: Path) -> PathContent:
    if path.with_name(path.name + ".partial").exists():
        return PathContent(
            Kind.NOTHING,
            "not exist, but its packing was begun",
            "start that again, it goes on where it was",
            (Kind.TEXTS, Kind.IMAGES),
        )
    seen = "" if path.is_absolute() else f" in {Path.cwd()}"
    for name in get_close_matches(path.name, _names(path.parent), n=1, cutoff=ALIKE):
        near = path.parent / name
        return PathContent(Kind.NOTHING, f"not exist{seen}", f"did you mean {near}?", (inspect_path(near).kind,))
    return PathContent(Kind.NOTHING, f"not exist{seen}")


def _file(path: Path) -> PathContent:
    if path.suffix == ".mdb":
        folder = path.absolute().parent
        named = folder.parent if _is_layout(folder) else folder
        return PathContent(
            Kind.FILE, "the data file of a store", f"name its folder, {named}", (inspect_path(named).kind,)
        )
    if path.suffix == ".json":
        keys = _keys(path)
        is_config = bool({"matcher", "extends", "optim", "data"} & keys.keys())
        return PathContent(Kind.SETTINGS, Kind.SETTINGS.value) if is_config else PathContent(Kind.FILE, "a JSON file")
    suffix = ".pth" if path.name.endswith(".pth.tar") else path.suffix
    return PathContent(Kind.FILE, FILES.get(suffix, "a file"))


def _folder(path: Path) -> PathContent:
    names = _names(path)
    if OF_TEXTS & set(names):
        return PathContent(Kind.TEXTS, "a text store")
    if DATA in names:
        above = path.absolute().parent
        return PathContent(
            Kind.OTHER, "one layout of an image store", f"name the folder above it, {above}", (Kind.IMAGES,)
        )
    below = store_folders(path)
    if below:
        return _of_stores(path, below)
    if CONFIG in names:
        return _with_config(path, names)
    if any(name.startswith("step-") for name in names):
        such = next(name for name in ("best", "latest", *names) if name in names)
        return PathContent(
            Kind.OTHER,
            "the folder of a run's checkpoints",
            f"name one of them, such as {path / such}",
            (Kind.CHECKPOINT,),
        )
    several = [name for name in names if (path / name).is_dir() and store_folders(path / name)]
    if several:
        return PathContent(
            Kind.OTHER, f"a folder of image stores ({_shown(several)})", "name one of them", (Kind.IMAGES,)
        )
    return _of_files(names)


def store_folders(folder: Path) -> list[str]:
    """The finished LMDB folders directly below a folder, in order of name."""
    found = (path.parent for path in folder.glob(f"*/{DATA}"))
    return sorted(path.name for path in found if path.suffix != ".partial")


def _of_stores(path: Path, below: list[str]) -> PathContent:
    if any(OF_TEXTS & set(_names(path / name)) for name in below):
        return PathContent(Kind.OTHER, f"a folder of text stores ({_shown(below)})", "name one of them", (Kind.TEXTS,))
    regions = [name for name in below if name.startswith(OF_REGIONS)]
    what = "pictures" if "pictures" in below and not regions else "region features"
    return PathContent(Kind.IMAGES, f"an image store of {what} ({_shown(below)})")


def _with_config(path: Path, names: list[str]) -> PathContent:
    keys = _keys(path / CONFIG)
    if "matcher" not in keys:
        return PathContent(
            Kind.OTHER, "a pre-trained model's folder" if "model_type" in keys else f"a folder with {CONFIG}"
        )
    if WEIGHTS not in names:
        return PathContent(Kind.RUN, Kind.RUN.value)
    run = path.absolute().parent.parent
    is_of_run = path.absolute().parent.name == CHECKPOINTS and (run / CONFIG).is_file()
    return PathContent(Kind.CHECKPOINT, f"a checkpoint of the run in {run}" if is_of_run else "a checkpoint")


def _of_files(names: list[str]) -> PathContent:
    if not names:
        return PathContent(Kind.OTHER, "an empty folder")
    for suffix, (what, remedy) in PACKED_BY.items():
        if any(name.lower().replace(".jpeg", ".jpg").replace(".png", ".jpg").endswith(suffix) for name in names):
            return PathContent(Kind.OTHER, f"a folder of {what}", remedy, (Kind.IMAGES,))
    return PathContent(Kind.OTHER, f"a folder of other things ({_shown(names)})")


def _is_layout(folder: Path) -> bool:
    return folder.name.startswith((*OF_REGIONS, "pictures"))


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, MOST))
    except OSError:
        return []


def _keys(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(names: Iterable[str]) -> str:
    first = list(islice(names, SHOWN + 1))
    return ", ".join(first[:SHOWN]) + (", ..." if len(first) > SHOWN else "")
