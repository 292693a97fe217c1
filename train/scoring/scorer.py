"""The score matrix of all images x all texts: encoded once, scored in length-sorted tiles, shared by ranks.

Where pairs go through the model (joint heads), what is encoded is cheap, and each rank encodes all of it.

The unit of work is a stripe: some texts against every image. A finished stripe is a file, so that a killed evaluation
goes on where it was; their folder is named after the weights, so that no stripe of other weights is ever used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batches.batch import Images, Ragged
from data.batches.pairs import Array, PairIndex
from model.matcher import Matcher, Side
from model.parts.attention import Attention
from train.distributed.comm import Comm, Solo
from train.metrics.clock import Clock
from train.scoring.autocast import Autocast
from train.scoring.resumable_chunks import ResumableChunks, Said
from train.scoring.sides import encode_side


@dataclass(frozen=True)
class Scorer:
    """Scores a split with a matcher.

    tokens: most packed tokens in one tile, which bounds the memory.
    threads: how many decode pictures side by side.
    """

    matcher: Matcher
    comm: Comm
    device: torch.device
    autocast: Autocast
    tokens: int
    threads: int = 1

    @cached_property
    def clock(self) -> Clock:
        """The time of reading and decoding ("load"), and how many images and texts were encoded and pairs scored."""
        return Clock(self.comm.progress)

    @torch.inference_mode()
    def matrix(self, index: PairIndex, folder: Path, said: Said) -> Array | None:
        """`[images, texts]` float32 on rank 0, None elsewhere.

        Args:
            folder: where stripes are kept until the matrix is whole; the same for all ranks, and named after all
                that decides a score (see `fingerprint`): what lies there already is used as it is.
            said: called with (stripes done, stripes in all) of this rank.
        """
        self.matcher.eval()
        folder.mkdir(parents=True, exist_ok=True)
        by_regions, by_words = length_orders(index)
        stripes = list(self._stripes(index, by_words))
        pieces = ResumableChunks(folder, [stripe_name(stripe) for stripe in stripes], self.comm)
        left = pieces.left
        # Who shares in the encoding shares in it for the others, even with no stripe left.
        encodes = len(left) > 0 if self.is_joint else any(self.comm.all_gather_object(len(left)))
        if encodes:
            with self.autocast():
                images, texts = self.sides(index, by_regions, by_words)
                pieces.make(left, lambda number: self.score_stripe(images, texts.slice(*stripes[number])), said)
        self.comm.barrier("scores")
        values = None
        if self.comm.rank == 0:
            values = np.empty((len(index.images), len(index.texts)), np.float32)
            for (start, end), scores in zip(stripes, pieces.read(), strict=True):
                values[by_regions[:, None], by_words[start:end]] = scores
            pieces.clear()
        self.comm.barrier("matrix")
        return values

    @torch.inference_mode()
    def score_with_attention(self, index: PairIndex, images: Array, texts: Array) -> tuple[Tensor, Attention]:
        """Scores `[p]` of the pairs (`images[p]`, `texts[p]`) and their attention, for a matcher that offers it."""
        self.matcher.eval()
        (each_image, image), (each_text, text) = (np.unique(side, return_inverse=True) for side in (images, texts))
        pairs = torch.from_numpy(image), torch.from_numpy(text), torch.arange(len(image))
        self.clock.count("pairs", len(images))
        with self.autocast():
            sides = self.encode_images(index, each_image), self.encode_texts(index, each_text)
            return self.matcher.score_with_attention(*sides, *pairs)

    def sides(self, index: PairIndex, images: Array, texts: Array) -> tuple[Side, Side]:
        """These images and texts, encoded by all ranks together."""
        return self.encode_images(index, images, together=True), self.encode_texts(index, texts, together=True)

    def encode_images(self, index: PairIndex, order: Array, together: bool = False) -> Side:
        """The images in this order, each decoded and encoded once.

        Args:
            together: all ranks call it for the same images, and may share the work.
        """
        return self._encoded(partial(self._encode_images, index), order, index.regions, together, "images")

    def encode_texts(self, index: PairIndex, order: Array, together: bool = False) -> Side:
        """The texts in this order (see `encode_images`)."""
        return self._encoded(partial(self._encode_texts, index), order, index.words, together, "texts")

    def _encoded(
        self, work: Callable[[Array], Side], order: Array, lengths: Array, together: bool, name: str
    ) -> Side:
        comm = self.comm if together and not self.is_joint else Solo()
        return encode_side(work, order, lengths[order], self.matcher.encode_chunk, comm, name)

    def _encode_images(self, index: PairIndex, chunk: Array) -> Side:
        with self.clock("load"):
            images = read_images(index, chunk, self.threads)
        self.clock.count("images", len(chunk))
        return self.matcher.encode_image(images.to(self.device))

    def _encode_texts(self, index: PairIndex, chunk: Array) -> Side:
        with self.clock("load"):
            texts = read_texts(index, chunk)
        self.clock.count("texts", len(chunk))
        return self.matcher.encode_text(texts.to(self.device))

    @property
    def is_joint(self) -> bool:
        """Whether each pair goes through the model; other heads compare what is encoded, in tiles of their own."""
        return next(iter(self.matcher.heads.values())) == "joint"

    def _stripes(self, index: PairIndex, by_words: Array) -> Iterator[tuple[int, int]]:
        """Runs of texts of so many tokens; where pairs are computed jointly, as many as images fit into a tile."""
        typical = index.regions.mean() + index.words.mean()
        width = max(1, int((self.tokens / typical) ** 0.5 if self.is_joint else self.tokens / index.words.mean()))
        for start in range(0, len(by_words), width):
            yield start, min(start + width, len(by_words))

    def score_stripe(self, images: Side, texts: Side) -> Array:
        """Scores `[images, texts]` of all pairs, on the host; images ascend in length."""
        parts = []
        start = 0
        while start < len(images):
            end = start + self._height(images, texts, start)
            parts.append(self.matcher.score(images.slice(start, end), texts).float())
            start = end
        self.clock.count("pairs", len(images) * len(texts))
        return torch.cat(parts).cpu().numpy()

    def _height(self, images: Side, texts: Side, start: int) -> int:
        """How many images, ascending in length, fit into a tile with these texts."""
        if not self.is_joint or images.tokens is None or texts.tokens is None:
            return len(images)
        words = int(texts.tokens.lengths.sum())
        length = images.tokens.lengths[start:]
        tokens = (torch.arange(1, len(length) + 1) * words) + length.cumsum(0) * len(texts)
        return max(1, int((tokens <= self.tokens).sum()))


def length_orders(index: PairIndex) -> tuple[Array, Array]:
    """All images and all texts, ascending in length."""
    return np.argsort(index.regions, kind="stable"), np.argsort(index.words, kind="stable")


def read_images(index: PairIndex, chosen: Sequence[int] | Array, threads: int = 1) -> Images:
    """The regions or pictures of these images in one allocation; pictures are decoded by so many threads."""
    chosen = np.asarray(chosen)
    lengths = index.regions[chosen]
    at = np.concatenate([[0], np.cumsum(lengths)])
    features = np.empty((at[-1], *index.row_shape), index.feature_type)
    boxes = np.empty((at[-1], 7), np.float32)

    def read(part: Array) -> None:
        rows = slice(at[part[0]], at[part[-1] + 1])
        index.read_images(chosen[part], features[rows], boxes[rows])

    pictures = len(index.row_shape) > 1
    parts = np.array_split(np.arange(len(chosen)), min(threads, len(chosen)) if pictures else 1)
    if len(parts) == 1:
        read(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(read, parts))
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


def shared_fingerprint(matcher: Matcher, index: PairIndex, comm: Comm) -> str:
    """`fingerprint` on all ranks; every rank has the same weights, and reading them all takes a while."""
    return comm.run_on_first(lambda: fingerprint(matcher, index))


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any type."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def stripe_name(stripe: tuple[int, int]) -> str:
    return f"texts-{stripe[0]:07d}-{stripe[1]:07d}.npy"

