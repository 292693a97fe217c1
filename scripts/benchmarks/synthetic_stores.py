"""Stores made up for the benchmarks: random features and words of lifelike counts and widths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.batches.pairs import PairIndex, Source
from data.files import write_json
from data.records.regions import Codec, RegionRule
from data.stores.image_store import ImageStore
from data.stores.image_writer import ImageWriter
from data.stores.seal import write_seal
from data.stores.text_store import TextStore, TextWriter

FIRST_WORD = 106
CLASSES = 1601


@dataclass(frozen=True)
class Shape:
    """How large the made-up images and texts are.

    Attributes:
        images, texts: how many; texts are spread evenly over the images.
        width: of the features.
        regions: (fewest, mean, most) an image.
        words: (fewest, most) a text, without [CLS] and [SEP].
        vocab: number of word ids.
        classes: width of the class scores that published records carry along; 0 leaves them out.
    """

    images: int
    texts: int
    width: int = 2048
    regions: tuple[int, int, int] = (10, 36, 100)
    words: tuple[int, int] = (8, 20)
    vocab: int = 28996
    classes: int = CLASSES

    @property
    def rule(self) -> RegionRule:
        """Every stored region counts."""
        return RegionRule(conf_th=0.2, max_bb=self.regions[2], min_bb=min(10, self.regions[0]))

    def draw_regions(self, rng: np.random.Generator) -> np.ndarray:
        """Region counts `[images]`."""
        fewest, mean, most = self.regions
        return np.clip(np.rint(rng.gamma(6.0, mean / 6.0, self.images)), fewest, most).astype(np.int64)


def write_images(folder: Path, shape: Shape, *codecs: Codec, seed: int = 0) -> None:
    """The same images in each of the layouts, below `folder`."""
    for codec in codecs:
        rng = np.random.default_rng(seed)
        counts = shape.draw_regions(rng)
        with ImageWriter(folder, codec, shape.rule) as writer:
            for number, count in enumerate(counts.tolist()):
                features = rng.standard_normal((count, shape.width), dtype=np.float32).astype(np.float16)
                corner, size = rng.random((2, count, 2)) / 2
                boxes = np.concatenate([corner, corner + size, size], 1)
                classes = rng.random((count, shape.classes)) if shape.classes else None
                published = classes if codec == "published" else None
                writer.add(image_name(number), features, boxes, np.full(count, 0.9), soft_labels=published)


def write_texts(folder: Path, shape: Shape, seed: int = 0) -> None:
    """Random captions; text t belongs to image t modulo `images`, and images may have none."""
    rng = np.random.default_rng(seed + 1)
    meta = {"UNK": 100, "CLS": 101, "SEP": 102, "MASK": 103, "v_range": [FIRST_WORD, shape.vocab]}
    with TextWriter(folder, meta) as writer:
        for number in range(shape.texts):
            length = int(rng.integers(shape.words[0], shape.words[1] + 1))
            ids = rng.integers(FIRST_WORD, shape.vocab, length).tolist()
            writer.add(str(number), {"input_ids": ids, "img_fname": image_name(number % shape.images)})
    captions = {
        image_name(image): list(map(str, range(image, shape.texts, shape.images))) for image in range(shape.images)
    }
    write_json(folder / "img2txts.json", captions)
    write_seal(folder)  # anew, for a file of the store is another one now


def write_stores(folder: Path, shape: Shape, *codecs: Codec) -> tuple[Path, Path]:
    """A text store and an image store in these layouts; returns their folders."""
    texts, images = folder / "texts.db", folder / "images"
    write_images(images, shape, *codecs)
    write_texts(texts, shape)
    return texts, images


def open_pairs(stores: tuple[Path, Path], shape: Shape, codec: Codec = "native") -> PairIndex:
    """The stores joined, images read from the given layout."""
    return PairIndex([Source(TextStore(stores[0]), ImageStore(stores[1], shape.rule, codec=codec))])


def image_name(number: int) -> str:
    return f"made_{number:06d}.npz"
