"""All images x all texts to one score matrix: encoded once, scored in length-sorted tiles, shared out over ranks.

The unit of work is a stripe: some texts against every image. A finished stripe is a file, so that a killed evaluation
goes on where it was; their folder is named after the weights, so that no stripe of other weights is ever used.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batch import Images, Ragged
from data.files import write_array
from data.pairs import Array, PairIndex
from model.attention import Attention
from model.matcher import Matcher, Side
from train.comm import Comm
from train.step import Autocast

CHUNK = 256
"""Items that are read and encoded together."""


@dataclass(frozen=True)
class Scorer:
    """Scores a split with a matcher.

    tokens: most packed tokens in one tile, which bounds the memory.
    """

    matcher: Matcher
    comm: Comm
    device: torch.device
    autocast: Autocast
    tokens: int

    @torch.inference_mode()
    def matrix(self, index: PairIndex, folder: Path, said: Callable[[int, int], object]) -> Array | None:
        """`[images, texts]` float32 on rank 0, None elsewhere.

        Args:
            folder: where stripes are kept until the matrix is whole; the same for all ranks, and named after all
                that decides a score (see `fingerprint`): what lies there already is used as it is.
            said: called with (stripes done, stripes in all) of this rank.
        """
        self.matcher.eval()
        folder.mkdir(parents=True, exist_ok=True)
        by_regions, by_words = (np.argsort(lengths, kind="stable") for lengths in (index.regions, index.words))
        stripes = list(self._stripes(index, by_words))
        mine = stripes[self.comm.rank :: self.comm.size]
        left = [stripe for stripe in mine if not (folder / name_of(stripe)).exists()]
        if left:
            with self.autocast():
                images, texts = self.encode_images(index, by_regions), self.encode_texts(index, by_words)
                for done, (start, end) in enumerate(left, len(mine) - len(left) + 1):
                    write_array(folder / name_of((start, end)), self._score_stripe(images, texts.slice(start, end)))
                    said(done, len(mine))
        self.comm.barrier("scores")
        values = None
        if self.comm.rank == 0:
            values = np.empty((len(index.images), len(index.texts)), np.float32)
            for start, end in stripes:
                columns = by_words[start:end]
                values[by_regions[:, None], columns] = np.load(folder / name_of((start, end)), allow_pickle=False)
            shutil.rmtree(folder)
        self.comm.barrier("matrix")
        return values

    @torch.inference_mode()
    def watch(self, index: PairIndex, images: Array, texts: Array) -> tuple[Tensor, Attention]:
        """Scores `[p]` of the pairs (`images[p]`, `texts[p]`) and their attention, for a matcher that offers it."""
        self.matcher.eval()
        (each_image, image), (each_text, text) = (np.unique(side, return_inverse=True) for side in (images, texts))
        pairs = torch.from_numpy(image), torch.from_numpy(text), torch.arange(len(image))
        with self.autocast():
            sides = self.encode_images(index, each_image), self.encode_texts(index, each_text)
            return self.matcher.score_watched(*sides, *pairs)

    def encode_images(self, index: PairIndex, order: Array) -> Side:
        """The images in this order, each decoded and encoded once."""
        return Side.cat([self._encode_images(index, chunk) for chunk in chunks(order)])

    def encode_texts(self, index: PairIndex, order: Array) -> Side:
        """The texts in this order."""
        return Side.cat([self.matcher.encode_text(read_texts(index, chunk).to(self.device)) for chunk in chunks(order)])

    def _encode_images(self, index: PairIndex, chunk: Array) -> Side:
        return self.matcher.encode_image(read_images(index, chunk).to(self.device))

    @property
    def _is_joint(self) -> bool:
        """Whether each pair goes through the model; other heads compare what is encoded, in tiles of their own."""
        return next(iter(self.matcher.heads.values())) == "joint"

    def _stripes(self, index: PairIndex, by_words: Array) -> Iterator[tuple[int, int]]:
        """Runs of texts of so many tokens; where pairs are computed jointly, as many as images fit into a tile."""
        typical = index.regions.mean() + index.words.mean()
        width = max(1, int((self.tokens / typical) ** 0.5 if self._is_joint else self.tokens / index.words.mean()))
        for start in range(0, len(by_words), width):
            yield start, min(start + width, len(by_words))

    def _score_stripe(self, images: Side, texts: Side) -> Array:
        parts = []
        start = 0
        while start < len(images):
            end = start + self._height(images, texts, start)
            parts.append(self.matcher.score(images.slice(start, end), texts).float())
            start = end
        return torch.cat(parts).cpu().numpy()

    def _height(self, images: Side, texts: Side, start: int) -> int:
        """How many images, ascending in length, fit into a tile with these texts."""
        if not self._is_joint or images.tokens is None or texts.tokens is None:
            return len(images)
        words = int(texts.tokens.lengths.sum())
        length = images.tokens.lengths[start:]
        tokens = (torch.arange(1, len(length) + 1) * words) + length.cumsum(0) * len(texts)
        return max(1, int((tokens <= self.tokens).sum()))


def read_images(index: PairIndex, chosen: Sequence[int] | Array) -> Images:
    """The regions of these images, decoded into one allocation."""
    lengths = index.regions[chosen]
    features = np.empty((lengths.sum(), index.image_dim), index.feature_type)
    boxes = np.empty((lengths.sum(), 7), np.float32)
    index.read_images(chosen, features, boxes)
    return Images(Ragged.of(torch.from_numpy(features), torch.from_numpy(lengths)), torch.from_numpy(boxes))


def read_texts(index: PairIndex, chosen: Sequence[int] | Array) -> Ragged:
    """The ids of these texts in one allocation."""
    lengths = index.words[chosen]
    ids = np.empty(lengths.sum(), np.int64)
    index.read_texts(chosen, ids)
    return Ragged.of(torch.from_numpy(ids), torch.from_numpy(lengths))


def fingerprint(matcher: Matcher, index: PairIndex) -> str:
    """A name for this matcher on these images and texts: other settings, or another packing, are another thing."""
    digest = hashlib.blake2b(matcher.config.model_dump_json().encode(), digest_size=8)
    for name, tensor in matcher.state_dict().items():
        digest.update(name.encode())
        digest.update(as_bytes(tensor))
    digest.update("\0".join([*index.images, "", *index.texts]).encode())
    digest.update(index.regions.tobytes() + index.words.tobytes())
    for source in index.sources:
        for folder in (source.images.path, source.texts.folder):
            written = (folder / "data.mdb").stat()
            digest.update(f"{written.st_size} {written.st_mtime_ns}".encode())
    return digest.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any type."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def chunks(order: Array) -> Iterator[Array]:
    """The items of `order`, so many at a time as are read together."""
    for start in range(0, len(order), CHUNK):
        yield order[start : start + CHUNK]


def name_of(stripe: tuple[int, int]) -> str:
    return f"texts-{stripe[0]:07d}-{stripe[1]:07d}.npy"

