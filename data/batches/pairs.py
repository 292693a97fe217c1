"""Text and image stores joined: all images and texts, their lengths, and the image of each text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from config.errors import DataError
from data.batches.owners import Owners
from data.stores.image_source import ImageSource
from data.stores.picture_files import other_files
from data.stores.text_store import TextStore

Array = np.ndarray
SHOWN = 3


@dataclass(frozen=True)
class Source:
    """One text store with the image store that its captions speak of."""

    texts: TextStore
    images: ImageSource


def check_files(source: Source) -> None:
    """Raise DataError where captions and pictures say of an image that it is another picture."""
    texts, images = source.texts, source.images
    wrong = list(islice(other_files(texts.meta, images.meta, texts.image_order), SHOWN + 1))
    if wrong:
        more = "; and more" if len(wrong) > SHOWN else ""
        raise DataError(f"{texts.folder} and {images.path} were packed of other pictures: {'; '.join(wrong[:SHOWN])}"
                        f"{more}; pack both from one captions file")  # fmt: skip


class PairIndex:
    """All images and captions of a split as two numbered lists.

    Attributes:
        images, texts: names, sources in the given order (images in the order of `img2txts.json`, captions in that of
            `id2len.json`).
        owner: `[texts]`, the image number of each caption; `owners` finds the captions of an image too.
        regions: `[images]`, how many regions each image has; pictures have one, which is all of them.
        words: `[texts]`, how many ids each caption has, [CLS] and [SEP] included.
        image_source, text_source: which source each comes from; candidates never cross sources.
    """

    def __init__(self, sources: Sequence[Source], leave_out: frozenset[str] = frozenset()) -> None:
        """Join `sources`, without the images in `leave_out` and their captions, and without the captions in it.

        Raises:
            DataError: a caption's image is not in the image store, nothing is left, or a store is damaged.
        """
        self.sources = list(sources)
        self.images: list[str] = []
        self.texts: list[str] = []
        owner, regions, words = [], [], []
        image_source, text_source = [], []
        for number, source in enumerate(self.sources):
            source.texts.open()
            check_files(source)
            names = [name for name in source.texts.image_order if name not in leave_out]
            place = {name: len(self.images) + at for at, name in enumerate(names)}
            everything = enumerate(zip(source.texts.ids, source.texts.images, strict=True))
            kept = [at for at, (text, name) in everything if name in place and text not in leave_out]
            owner.append([place[source.texts.images[at]] for at in kept])
            regions.append(source.images.counts(names))
            words.append(source.texts.lengths[kept] + 2)
            image_source.append(np.full(len(names), number))
            text_source.append(np.full(len(kept), number))
            self.images += names
            self.texts += [source.texts.ids[at] for at in kept]
        if not self.texts:
            raise DataError("the stores hold no caption with its image; check that txt_db and img_db belong together")
        self.owner = np.concatenate([np.asarray(part, np.int64) for part in owner])
        self.regions, self.words = np.concatenate(regions), np.concatenate(words)
        self.image_source, self.text_source = np.concatenate(image_source), np.concatenate(text_source)
        self.owners = Owners(self.owner, len(self.images))

    @cached_property
    def order_hash(self) -> str:
        """A checksum of which images and captions there are, in which order, and who owns whom.

        Lists of positions mean something only beside the same order.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\0".join([*self.images, "", *self.texts]).encode())
        digest.update(self.owner.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def image_dim(self) -> int:
        """Width of the region features, or side of the pictures."""
        return self.sources[0].images.dim

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a region's features, or of a picture."""
        return self.sources[0].images.row_shape

    @property
    def feature_type(self) -> np.dtype[Any]:
        """The type that images are read in: the widest of the sources."""
        return np.result_type(*(source.images.dtype for source in self.sources))

    def captions(self, image: int) -> Array:
        """The captions of an image, ascending."""
        return self.owners.texts(image)

    def anchors(self, max_txt_len: int) -> Array:
        """The captions of at most `max_txt_len` WordPiece ids ([CLS] and [SEP] not counted); -1 takes all."""
        everything = np.arange(len(self.texts))
        return everything if max_txt_len < 0 else everything[self.words - 2 <= max_txt_len]

    def read_images(
        self, images: Sequence[int] | Array, features: Array, boxes: Array, keys: Array | None = None
    ) -> None:
        """Decode these images, one after the other, into `features [total, *row_shape]` and `boxes [total, 7]`.

        Args:
            keys: `[images]`, what a store may key random changes of each image by; without keys it makes none.
        """
        keyed = [None] * len(images) if keys is None else keys.tolist()
        for image, (start, end), key in zip(images, spans(self.regions[images]), keyed, strict=True):
            store = self.sources[self.image_source[image]].images
            store.read_into(self.images[image], features[start:end], boxes[start:end], key)

    def read_texts(self, texts: Sequence[int] | Array, ids: Array) -> None:
        """Write these captions' ids, [CLS] and [SEP] included, one after the other into `ids [total]`."""
        for text, (start, end) in zip(texts, spans(self.words[texts]), strict=True):
            store = self.sources[self.text_source[text]].texts
            ids[start], ids[end - 1] = store.special.cls, store.special.sep
            ids[start + 1 : end - 1] = store.tokens(self.texts[text])

    def record(self, text: int) -> dict[str, Any]:
        """A caption's whole record, with whatever its packer kept in it."""
        return self.sources[self.text_source[text]].texts.record(self.texts[text])


def spans(lengths: Array) -> list[tuple[int, int]]:
    """(start, end) of each stretch."""
    ends = np.cumsum(lengths).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))
