"""The interface of every system: encode each side once, then score whom with whom. Read this first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from config.schema import Named
from data.batch import Batch, Images, Pool, Ragged
from model.attention import Attention
from model.finding import find_class

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
class MatchOut:
    """What an objective may look at: the scores of each head, the sides, and losses of the matcher's own.

    `scores[head]` is `[anchors, candidates]` with the matching pair in column 0 where the batch has pools, else
    `[images, texts]`. `attention` is that of the matching pairs, one for each anchor, where it was asked for.
    """

    scores: dict[str, Tensor]
    images: Side
    texts: Side
    aux: dict[str, Tensor] = field(default_factory=dict)
    attention: Attention | None = None


class Matcher(nn.Module, ABC):
    """A system: three verbs, a typed config section (`settings`), and the kinds of its heads."""

    settings: ClassVar[type[Named]]
    heads: ClassVar[dict[str, HeadKind]]
    decayed_norms: ClassVar[tuple[str, ...]] = ()
    """Normalisation weights (suffixes of names) that the authors let decay all the same."""

    @property
    @abstractmethod
    def image_dim(self) -> int:
        """Width of the region features it takes."""

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

    def score_pool(self, images: Side, texts: Side, pool: Pool) -> Tensor:
        """Scores `[anchors, candidates]` of the pairs of `pool`."""
        return self.score_pairs(images, texts, pool.image.flatten(), pool.text.flatten()).view(pool.image.shape)

    def score_watched(
        self, images: Side, texts: Side, image: Tensor, text: Tensor, watched: Tensor
    ) -> tuple[Tensor, Attention]:
        """`score_pairs`, and the attention inside the pairs numbered `watched [w]` (host); for those who offer it."""
        raise NotImplementedError(f"{type(self).__name__} offers no attention")

    def forward(self, batch: Batch, needs: frozenset[str] = frozenset()) -> MatchOut:
        """The composition of the verbs over a batch, and nothing more; `needs` is what an objective asks for."""
        images, texts = self.encode_image(batch.images), self.encode_text(batch.texts)
        head, attention = next(iter(self.heads)), None
        if batch.pool is None:
            scores = self.score(images, texts)
        elif "attention" in needs:
            image, text = batch.pool.image, batch.pool.text
            matching = torch.arange(len(image)) * image.shape[1]
            flat, attention = self.score_watched(images, texts, image.flatten(), text.flatten(), matching)
            scores = flat.view(image.shape)
        else:
            scores = self.score_pool(images, texts, batch.pool)
        return MatchOut({head: scores}, images, texts, attention=attention)


def find(name: str) -> type[Matcher]:
    """The matcher class of `model/<name>.py`; raises ConfigError where there is none."""
    return find_class("model", name, Matcher)  # type: ignore[type-abstract]


def build(config: Named) -> Matcher:
    """A freshly initialised matcher from its own config section (which carries its `name`)."""
    return find(config.name)(config)
