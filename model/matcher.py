"""The interface of every system: encode each side once, then score pairs. Read this first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from config.sections import Named
from data.batches.batch import Batch, Images, Pool, Ragged
from model.parts.attention import Attention
from model.parts.layers import l2norm, pad_ragged, upcast
from model.registry import find_class

HeadKind = Literal["dot", "late", "joint"]


@dataclass(frozen=True)
class Side:
    """One encoded side, images or texts: packed `tokens [total, d]`, `pooled [n, d]`, or both."""

    tokens: Ragged | None = None
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows if self.pooled is None else self.pooled)

    @property
    def rows(self) -> Ragged:
        """The tokens, where the caller knows that this matcher keeps them."""
        if self.tokens is None:
            raise ValueError("this side holds pooled vectors only")
        return self.tokens

    def slice(self, start: int, end: int) -> Side:
        """The items from `start` up to `end`, viewed."""
        tokens = None if self.tokens is None else self.tokens.slice(start, end)
        return Side(tokens, None if self.pooled is None else self.pooled[start:end])

    def select(self, index: Tensor) -> Side:
        """The items `index [k]` (host), copied."""
        tokens = None if self.tokens is None else self.tokens.select(index)
        pooled = None if self.pooled is None else self.pooled[index.to(self.pooled.device)]
        return Side(tokens, pooled)

    @staticmethod
    def cat(sides: list[Side]) -> Side:
        """Sides of successive blocks as one."""
        tokens = [side.tokens for side in sides if side.tokens is not None]
        pooled = [side.pooled for side in sides if side.pooled is not None]
        return Side(Ragged.cat(tokens) if tokens else None, torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class OfflineScores:
    """Scores `[items]` of each item's offline negatives: wrong ones, found beforehand, that the batch brings along.

    Attributes:
        text, image: the item's image with its wrong text, the wrong image with the item's text.
        both: the wrong image with the wrong text.
        kin: the image that the wrong text belongs to, with a text of the wrong image.
        related: bool; `both` and `kin` are no negatives: the wrong text belongs to the wrong image, so that they score
            true matches, or one is a false negative (see `MatchOut`).
    """

    text: Tensor
    image: Tensor
    both: Tensor
    kin: Tensor
    related: Tensor


@dataclass(frozen=True)
class MatchOut:
    """What an objective may look at: the scores of each head, the sides, and losses of the matcher's own.

    `scores[head]` is `[anchors, candidates]` with the matching pair in column 0 where the batch has pools, else
    `[images, texts]`, of which `positive` (bool) says who belongs to whom; items match on its diagonal, and `keys
    [items]` (int64, host) are what random draws for them are keyed by. `attention` is that of the matching pairs, one
    for each anchor, where it was asked for. `false_negatives` (bool, like `positive`) count as neither.
    """

    scores: dict[str, Tensor]
    images: Side
    texts: Side
    aux: dict[str, Tensor] = field(default_factory=dict)
    attention: Attention | None = None
    positive: Tensor | None = None
    offline: OfflineScores | None = None
    keys: Tensor | None = None
    false_negatives: Tensor | None = None

    def with_false_negatives(self, pairs: Tensor) -> Tensor:
        """`pairs [images, texts]` (bool), and the false negatives."""
        return pairs if self.false_negatives is None else pairs | self.false_negatives


class Matcher(nn.Module, ABC):
    """A system: three verbs, a typed config section (`settings`), and the kinds of its heads."""

    settings: ClassVar[type[Named]]
    config: Named
    """The section it was built from."""
    heads: ClassVar[dict[str, HeadKind]]
    ordered_regions: ClassVar[bool] = False
    """Whether the order of an image's regions means something to it."""
    uses_boxes: ClassVar[bool] = False
    """Whether it looks at where regions are."""
    takes_pictures: ClassVar[bool] = False
    """Whether it takes the pixels of pictures in place of region features."""
    encode_chunk: ClassVar[int] = 256
    """Items that an evaluation encodes together; fewer where encoding takes much memory."""
    idle: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of parameters that no score hangs on: weights to be measured may lack them."""
    decayed_norms: ClassVar[tuple[str, ...]] = ()
    """Normalisation weights (suffixes of names) that the authors let decay all the same."""

    @property
    @abstractmethod
    def image_dim(self) -> int:
        """Width of the region features it takes, or side of the square pictures in pixels."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of word ids it knows."""

    @property
    def longest_text(self) -> int | None:
        """Most word ids of a text, the marks at its ends included; None takes any."""
        return None

    @property
    def offers(self) -> frozenset[str]:
        """What it can hand to an objective besides scores (see `Objective.needs`)."""
        return frozenset()

    @abstractmethod
    def encode_image(self, images: Images) -> Side:
        """Everything that depends on an image alone."""

    @abstractmethod
    def encode_text(self, texts: Ragged) -> Side:
        """Everything that depends on a text alone; `texts.values` are word ids."""

    @abstractmethod
    def score_pairs(self, images: Side, texts: Side, image: Tensor, text: Tensor) -> Tensor:
        """Scores `[p]` of the pairs (`image[p]`, `text[p]`), host indices into the two sides."""

    def score(self, images: Side, texts: Side) -> Tensor:
        """Scores `[images, texts]` of all pairs."""
        n, m = len(images), len(texts)
        image = torch.arange(n).repeat_interleave(m)
        return self.score_pairs(images, texts, image, torch.arange(m).repeat(n)).view(n, m)

    def pooled_images(self, images: Side) -> Tensor:
        """`[n, d]`: one vector of each image, by whose products with those of texts candidates are found."""
        return pooled(images)

    def pooled_texts(self, texts: Side) -> Tensor:
        """`[m, d]`: one vector of each text (see `pooled_images`)."""
        return pooled(texts)

    def score_pool(self, images: Side, texts: Side, pool: Pool) -> Tensor:
        """Scores `[anchors, candidates]` of the pairs of `pool`."""
        return self.score_pairs(images, texts, pool.image.flatten(), pool.text.flatten()).view(pool.image.shape)

    def score_with_attention(
        self, images: Side, texts: Side, image: Tensor, text: Tensor, watched: Tensor
    ) -> tuple[Tensor, Attention]:
        """`score_pairs`, and the attention inside the pairs numbered `watched [w]` (host); for those who offer it."""
        raise NotImplementedError(f"{type(self).__name__} offers no attention")

    def aux(self, images: Side, texts: Ragged, image: Tensor, text: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """Losses of its own over the matching pairs (`image[k]`, `text[k]`), each their mean; only in training.

        Args:
            image, text: host indices into the encoded images and into `texts`, the word ids.
            keys: `[k]` int64 (host), what random draws for each pair are keyed by.
        """
        del images, texts, image, text, keys
        return {}

    def forward(self, batch: Batch, needs: frozenset[str] = frozenset()) -> MatchOut:
        """The composition of the verbs over a batch, and nothing more; `needs` is what an objective asks for."""
        images, texts = self.encode_image(batch.images), self.encode_text(batch.texts)
        head, attention, positive = next(iter(self.heads)), None, None
        if batch.pool is None:
            scores, positive = self.score(images, texts), batch.positive.to(self.device)
        elif "attention" in needs:
            image, text = batch.pool.image, batch.pool.text
            matching = torch.arange(len(image)) * image.shape[1]
            flat, attention = self.score_with_attention(images, texts, image.flatten(), text.flatten(), matching)
            scores = flat.view(image.shape)
        else:
            scores = self.score_pool(images, texts, batch.pool)
        aux = self.own_losses(images, batch)
        return MatchOut({head: scores}, images, texts, aux, attention, positive)

    def own_losses(self, images: Side, batch: Batch) -> dict[str, Tensor]:
        """Its own losses over the matching pairs of a batch with these `images`, while it is trained; else none."""
        if not self.training:
            return {}
        image, text = batch.matches
        keys = torch.arange(len(image)) if batch.keys is None else batch.keys
        return self.aux(images, batch.texts, image, text, keys)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device


def pooled(side: Side) -> Tensor:
    """`[n, d]`: the vectors of a side, or the direction of its tokens' mean where it keeps tokens alone."""
    if side.pooled is not None:
        return side.pooled
    # Zeros stand behind short items. Adding each row where it belongs would be simpler, but in any order on a GPU.
    return l2norm(pad_ragged(Ragged(upcast(side.rows.values), side.rows.offsets))[0].sum(1))


def find(name: str) -> type[Matcher]:
    """The matcher class of `model/<name>.py`; raises ConfigError where there is none."""
    return find_class("model", name, Matcher)  # type: ignore[type-abstract]


def build(config: Named) -> Matcher:
    """A freshly initialised matcher from its own config section (which carries its `name`)."""
    return find(config.name)(config)
