"""Re-ranking with late heads: short-lists by mean tokens, scored again pair by pair.

Queries are scored in groups that are always the same, each by one thread, so that ranks and cores change no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.errors import ConfigError
from data.batches.batch import Ragged, ranges
from data.batches.pairs import Array, PairIndex
from model.matcher import Side
from train.mining.embed import IMAGE_TOKENS, TEXT_TOKENS, Item, Result, run_side_by_side
from train.mining.filters import NO_CEILING
from train.mining.lists import Direction, Write, check_found
from train.mining.storage import open_memmap
from train.scoring.scorer import Scorer

PAIRS = 1 << 14
"""Most pairs of a group, about."""


@dataclass(frozen=True)
class Tokens:
    """The packed tokens `[total, d]` of all items, memory-mapped, and where each item's begin."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def open(cls, path: Path, lengths: Array) -> Tokens:
        return cls(torch.from_numpy(open_memmap(path)), torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])))

    def bytes(self, items: Tensor) -> int:
        """Of these items: as they are, and where they differ in length as wide as the longest, to be scored."""
        lengths = self.offsets.diff()[items]
        rows, filled = int(lengths.sum()), len(items) * int(lengths.max())
        rows += filled if filled > rows else 0
        return rows * self.values.shape[1] * self.values.element_size()

    def side(self, items: Tensor, device: torch.device) -> Side:
        """These items, read where they lie."""
        lengths = self.offsets.diff()[items]
        rows = self.values[ranges(self.offsets[items], lengths)]
        return Side(Ragged.of(rows.to(device), lengths))


@dataclass(frozen=True)
class Reranker:
    """Orders short-lists by a matcher's own scores.

    room: bytes of tokens that are read at once, by each thread. Where pairs are cut for it, the last bits of a score
        may differ, since a matcher pads what it scores together.
    """

    scorer: Scorer
    index: PairIndex
    folder: Path
    room: int

    @cached_property
    def _tokens(self) -> tuple[Tokens, Tokens]:
        """Of images and texts."""
        return (
            Tokens.open(self.folder / IMAGE_TOKENS, self.index.regions),
            Tokens.open(self.folder / TEXT_TOKENS, self.index.words),
        )

    def positives(self) -> tuple[Tensor, Tensor]:
        """The score of the best own caption of each image, and of each text with its image."""
        texts = torch.arange(len(self.index.texts))
        owner = torch.from_numpy(self.index.owner)
        groups = list(zip(owner.split(PAIRS), texts.split(PAIRS), strict=True))
        score = torch.cat(list(self._side_by_side(lambda group: self._scores(*group), groups))).double()
        best = torch.full((len(self.index.images),), -torch.inf, dtype=torch.float64)
        best = best.scatter_reduce(0, owner, score, "amax")
        return best.masked_fill(best == -torch.inf, NO_CEILING), score

    def order(self, by_image: bool, shortlists: Array, direction: Direction, write: Write) -> None:
        """Hand each query's best candidates to `write`; this rank does its share.

        Args:
            shortlists: `[queries, s]`, the candidates of each.

        Raises:
            DataError: a query has too few candidates below its ceiling.
        """
        comm, width = self.scorer.comm, shortlists.shape[1]
        if width < direction.most:
            raise ConfigError(f"--shortlist is too short: {width} are no choice for {direction.most}; raise it")
        size = max(1, PAIRS // width)
        groups = [np.arange(start, min(start + size, len(shortlists))) for start in range(0, len(shortlists), size)]
        mine = groups[comm.rank :: comm.size]
        for some, (chosen, scores) in zip(mine, self._ordered(by_image, shortlists, direction, mine), strict=True):
            there = (scores[:, : direction.most] > -torch.inf).sum(1)
            check_found(there.numpy(), some, direction)
            write(some, chosen[:, : direction.most].int().numpy(), scores[:, : direction.most].float().numpy())

    def _ordered(
        self, by_image: bool, shortlists: Array, direction: Direction, groups: list[Array]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(candidates, scores) `[q, s]` of each group, best first, equal ones by ascending name."""

        def work(some: Array) -> tuple[Tensor, Tensor]:
            chosen = torch.from_numpy(np.sort(shortlists[some], axis=1)).long()
            query = torch.from_numpy(some).repeat_interleave(chosen.shape[1])
            # By candidate, so that where pairs are cut each candidate is read once: queries are few.
            candidate, order = chosen.flatten().sort(stable=True)
            pairs = (query[order], candidate) if by_image else (candidate, query[order])
            scores = self._scores(*pairs)[order.argsort()].view(chosen.shape).double()
            if direction.ceiling is not None:
                scores[scores > direction.ceiling[torch.from_numpy(some)][:, None]] = -torch.inf
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            return chosen.gather(1, order), scores

        return self._side_by_side(work, groups)

    def _side_by_side(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        return run_side_by_side(work, items, self.scorer.device, self.scorer.clock)

    def _scores(self, image: Tensor, text: Tensor) -> Tensor:
        """`[pairs]` float32 on the host; half after half where both sides' tokens are more than there is room for."""
        each_image, of_image = image.unique(return_inverse=True)
        each_text, of_text = text.unique(return_inverse=True)
        images, texts = self._tokens
        if len(image) > 1 and images.bytes(each_image) + texts.bytes(each_text) > self.room:
            half = len(image) // 2
            return torch.cat([self._scores(image[:half], text[:half]), self._scores(image[half:], text[half:])])
        device = self.scorer.device
        with torch.inference_mode(), self.scorer.autocast():
            with self.scorer.clock("load"):
                sides = images.side(each_image, device), texts.side(each_text, device)
            return self.scorer.matcher.score_pairs(*sides, of_image, of_text).float().cpu().clone()
