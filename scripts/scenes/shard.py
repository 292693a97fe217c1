"""A hundred scenes at a time: pictures, captions with annotation, and raw region features, written atomically."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.draws import generator
from data.files import replace_atomically
from data.records.regions import normalise_boxes
from data.source.jpeg import describe, read_picture
from scripts.scenes.detect import detect
from scripts.scenes.draw import SIDE, draw
from scripts.scenes.words import Caption, write_captions
from scripts.scenes.world import Scene, make_group

SPLITS = ("train", "val", "test")  # the position is part of every draw's key
GROUP = 4  # scenes that differ from the first among them in one fact
SHARD = 25 * GROUP


@dataclass(frozen=True)
class Shard:
    """Scenes [first, end) of a split, below the folder that the set is built in."""

    folder: Path
    seed: int
    split: str
    first: int
    end: int

    @property
    def rows_path(self) -> Path:
        """One JSON line a scene; written last, so that its presence says that the shard is done."""
        return self.folder / "shards" / f"{self.split}-{self.first:08d}.jsonl"

    @property
    def regions_path(self) -> Path:
        return self.rows_path.with_suffix(".npz")

    def rows(self) -> list[str]:
        return self.rows_path.read_text("utf-8").splitlines()


class Regions(NamedTuple):
    """Regions of all scenes of a shard, one scene after the other; `offsets` [scenes + 1] says where each begins."""

    raw: NDArray[np.float32]
    norm_bb: NDArray[np.float32]
    conf: NDArray[np.float32]
    offsets: NDArray[np.int64]


def shards(folder: Path, seed: int, split: str, count: int) -> list[Shard]:
    """The shards of a split of `count` scenes."""
    return [Shard(folder, seed, split, first, min(first + SHARD, count)) for first in range(0, count, SHARD)]


def image_id(split: str, index: int) -> str:
    return f"scene_{split}_{index:06d}"


def make_shard(shard: Shard) -> None:
    """Draw, describe and annotate the scenes of a shard; does nothing if that was done."""
    if shard.rows_path.exists():
        return
    split = SPLITS.index(shard.split)
    rows, raw, norm_bb, conf = [], [], [], []
    for index in range(shard.first, shard.end):
        if index % GROUP == 0 or index == shard.first:
            group = make_group(shard.seed, split, index // GROUP, GROUP)
        scene = group[index % GROUP]
        picture = draw(scene, generator(shard.seed, "scene picture", split, index))
        captions = write_captions(scene, focus_of(group, scene), generator(shard.seed, "scene captions", split, index))
        file = f"{shard.split}/{image_id(shard.split, index)}.jpg"
        _write(shard.folder / "pictures" / file, picture.jpeg)
        rows.append(json.dumps(_row(shard.split, index, file, scene, picture.boxes, captions)) + "\n")

        boxes, confidence = detect(picture.boxes, generator(shard.seed, "scene regions", split, index))
        raw.append(describe(read_picture(picture.jpeg, file), boxes))
        norm_bb.append(normalise_boxes(boxes, SIDE, SIDE))
        conf.append(confidence)
    offsets = np.cumsum([0, *map(len, conf)])
    regions = Regions(np.concatenate(raw), np.concatenate(norm_bb), np.concatenate(conf), offsets)
    buffer = io.BytesIO()
    np.savez(buffer, **regions._asdict())
    _write(shard.regions_path, buffer.getvalue())
    _write(shard.rows_path, "".join(rows).encode())


def read_regions(shard: Shard) -> Regions:
    """The regions of a shard that was made."""
    with np.load(shard.regions_path, allow_pickle=False) as archive:
        return Regions(**{name: archive[name] for name in Regions._fields})


def focus_of(group: list[Scene], scene: Scene) -> set[tuple[int, str]]:
    """The facts that a caption should not leave out: how this scene differs from the base, or the base from all."""
    about = group if scene.difference is None else [scene]
    return {(d.thing, d.kind) for d in (member.difference for member in about) if d is not None}


def _row(
    split: str, index: int, file: str, scene: Scene, boxes: NDArray[np.float32], captions: list[Caption]
) -> dict[str, Any]:
    corners = boxes.astype(float).round(1).tolist()
    return {
        "image_id": image_id(split, index),
        "file": file,
        "split": split,
        "width": SIDE,
        "height": SIDE,
        "captions": [caption.text for caption in captions],
        "phrases": [
            [{**asdict(phrase), "boxes": [corners[n] for n in phrase.objects]} for phrase in caption.phrases]
            for caption in captions
        ],
        "stated": [[[r.subject, r.side, r.reference] for r in caption.relations] for caption in captions],
        "objects": [{**asdict(thing), "box": box} for thing, box in zip(scene.things, corners, strict=True)],
        "relations": [[r.subject, r.side, r.reference] for r in scene.relations],
        "group": index // GROUP,
        "differs": scene.difference and asdict(scene.difference),
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as beside:
        beside.write_bytes(content)
