"""All pairs scored: our scorer against one caption and 400 padded images a call, each image decoded for each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batches.pairs import PairIndex
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from model.uniter import Config, Uniter
from scripts.benchmarks import padded
from scripts.benchmarks.synthetic_stores import Shape, image_name, open_pairs, write_stores
from scripts.benchmarks.timing import Row, absent, close, interleave, one_thread
from train.distributed.comm import Solo
from train.scoring.scorer import Scorer

GROUP = "all-pairs evaluation"
CALL = 400
BASE = Config.model_validate({})
SMALL = Config.model_validate(
    {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "img_dim": 64,
    }
)


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """A model of UNITER-base's shape on few pairs, and a small one on many."""
    lacking = absent("msgpack_numpy")
    images, texts = (30, 6) if quick else (400, 60)
    small = Shape(images, texts, SMALL.img_dim, (5, 10, 16), vocab=SMALL.vocab_size, classes=0)
    kinds = {"small model": (SMALL, small, 3 if quick else 7)}
    if not quick:
        kinds["UNITER-base's shape"] = (BASE, Shape(40, 3), 2)
    for name, (config, shape, rounds) in kinds.items():
        if lacking:
            yield Row(GROUP, name, note=lacking)
            continue
        with one_thread():
            yield compare(folder / f"width-{config.hidden_size}", name, config, shape, rounds)


def compare(folder: Path, name: str, config: Config, shape: Shape, rounds: int) -> Row:
    """The race; no row without equal scores."""
    folder.mkdir()
    stores = write_stores(folder, shape, "native", "published")
    torch.manual_seed(0)
    model = Uniter(config)
    model.rank.weight.data.mul_(10)  # wider apart than the initial scores, so that equality says something
    index = open_pairs(stores, shape)
    scorer = Scorer(model, Solo(), torch.device("cpu"), nullcontext, tokens=16384)
    plain = Plain(model, index, stores[1], shape)

    scores: dict[str, Tensor] = {}

    def ours() -> None:
        values = scorer.matrix(index, folder / "scores", lambda *_: None)
        scores["ours"] = torch.from_numpy(values)

    def peer() -> None:
        scores["peer"] = plain.matrix()

    found = interleave({"ours": ours, "one caption a call": peer}, rounds, warm=False)
    difference = close(scores["ours"], scores["peer"])
    facts = (
        f"{config.num_hidden_layers} layers, width {config.hidden_size}, {shape.images} images x {shape.texts} captions"
    )
    note = f"{facts}, one thread; largest difference of a score {difference:.0e}"
    return found.row(GROUP, name, "ours", "one caption a call", shape.images * shape.texts, "pairs/s", None, note)


class Plain:
    """The published evaluation: for each caption, images in calls of 400, decoded, padded and embedded each time."""

    def __init__(self, model: Uniter, index: PairIndex, images: Path, shape: Shape) -> None:
        self.model, self.index, self.shape = model, index, shape
        self.store = LmdbStore(ImageStore(images, shape.rule, codec="published").path)

    @torch.inference_mode()
    def matrix(self) -> Tensor:
        """`[images, texts]`."""
        self.model.eval()
        return torch.stack([self.column(text) for text in range(len(self.index.texts))], 1)

    def column(self, text: int) -> Tensor:
        """A caption with every image."""
        ids = np.empty(self.index.words[text], np.int64)
        self.index.read_texts([text], ids)
        calls = range(0, self.shape.images, CALL)
        return torch.cat(
            [self.call(torch.from_numpy(ids), start, min(start + CALL, self.shape.images)) for start in calls]
        )

    def call(self, words: Tensor, start: int, end: int) -> Tensor:
        """Scores of a caption with the images from `start` up to `end`."""
        read = [self.read(number) for number in range(start, end)]
        lengths = torch.tensor([len(features) for features, _ in read])
        longest = int(lengths.max())
        features, boxes = torch.zeros(len(read), longest, self.shape.width), torch.zeros(len(read), longest, 7)
        for place, (feature, box) in enumerate(read):
            features[place, : len(feature)] = torch.from_numpy(feature)
            boxes[place, : len(box)] = torch.from_numpy(box)
        return padded.scores(self.model, words, features, boxes, torch.arange(longest) < lengths[:, None])

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Features and boxes of an image, decoded by msgpack-numpy."""
        import msgpack_numpy

        record = msgpack_numpy.unpackb(bytes(self.store.get(image_name(number))), raw=False)
        boxes = record["norm_bb"].astype(np.float32)
        return record["features"].astype(np.float32), np.concatenate([boxes, boxes[:, 4:5] * boxes[:, 5:]], 1)
