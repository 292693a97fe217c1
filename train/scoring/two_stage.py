"""Two-stage retrieval: candidates by one vector of each item, then the matcher's own scores of those pairs.

A text is scored with the images nearest to it, and an image with the texts nearest to it. A pair that is among neither
has the score -inf, which ranks behind everything (see `train/scoring/recall.py`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from data.batches.pairs import Array, PairIndex
from model.matcher import Matcher, Side
from model.parts.layers import top_mask
from train.scoring.resumable_chunks import ResumableChunks, Said
from train.scoring.scorer import Scorer, length_orders

AT_ONCE = 1 << 24
"""Similarities that are looked at together, about."""
POOLED_AT_ONCE = 1024
"""Items whose vectors are made together."""
Facts = dict[str, Any]


def check_two_stage(keep: int, matcher: Matcher) -> None:
    """Raise ConfigError where candidates are asked for and the matcher has nothing to find them by."""
    if keep and next(iter(matcher.heads.values())) == "joint":
        raise ConfigError(
            f"two_stage={keep}: matcher {matcher.config.name} sees images only together with texts, so nothing tells "
            "candidates from others; set it to 0"
        )


@dataclass(frozen=True)
class TwoStage:
    """Scores the pairs among the `keep` nearest of each image and text of a split."""

    scorer: Scorer
    keep: int
    _seconds: dict[str, float] = field(default_factory=dict)

    @torch.inference_mode()
    def matrix(self, index: PairIndex, folder: Path, said: Said) -> tuple[Array, Facts] | None:
        """`[images, texts]` float32 and what is to be known of it (see `shortlist_facts`) on rank 0, None elsewhere.

        Args:
            folder: where scores are kept until the matrix is whole (see `Scorer.matrix`).
            said: called with (blocks of pairs done, blocks in all) of this rank.

        Raises:
            DataError: the vector of an image or text is not finite.
        """
        scorer, comm = self.scorer, self.scorer.comm
        scorer.matcher.eval()
        folder.mkdir(parents=True, exist_ok=True)
        by_regions, by_words = length_orders(index)
        with self._timed("encode"), scorer.autocast():
            images, texts = scorer.sides(index, by_regions, by_words)
        with self._timed("search"):
            chosen = self._candidates(index, images, texts, by_regions, by_words)
        with self._timed("score"):
            # Neighbours in this order share images of like length.
            image, text = chosen[by_regions][:, by_words].nonzero()
            blocks = self._blocks(index, len(image))
            pieces = ResumableChunks(folder, names_of(blocks, chosen), comm)

            def work(number: int) -> Array:
                return self._score(images, texts, image[blocks[number]], text[blocks[number]])

            with scorer.autocast():
                pieces.make(pieces.left, work, said)
            comm.barrier("candidates")
        found = None
        if comm.rank == 0:
            values = np.full(chosen.shape, -np.inf, np.float32)
            values[by_regions[image], by_words[text]] = np.concatenate(list(pieces.read()))
            found = values, shortlist_facts(self.keep, chosen, index.owner) | {"seconds": self._seconds}
            pieces.clear()
        comm.barrier("matrix")
        return found

    def _candidates(self, index: PairIndex, images: Side, texts: Side, by_regions: Array, by_words: Array) -> Array:
        """`[images, texts]` bool in the order of the index; rank 0 looks for all, so that all score the same."""
        shape = len(index.images), len(index.texts)
        bits = torch.zeros(-(-shape[0] * shape[1] // 8), dtype=torch.uint8)
        if self.scorer.comm.rank == 0:
            rows = pool_in_chunks(self.scorer.matcher.pooled_images, images)[by_regions.argsort()]
            columns = pool_in_chunks(self.scorer.matcher.pooled_texts, texts)[by_words.argsort()]
            check_finite(rows, "image", index.images)
            check_finite(columns, "caption", index.texts)
            chosen = nearest(rows, columns, self.keep) | nearest(columns, rows, self.keep).T
            bits = torch.from_numpy(np.packbits(chosen))
        self.scorer.comm.broadcast_(bits, "candidates")
        return np.unpackbits(bits.numpy(), count=shape[0] * shape[1]).view(bool).reshape(shape)

    def _blocks(self, index: PairIndex, pairs: int) -> list[slice]:
        """Runs of pairs whose texts have about as many tokens as a tile may have."""
        size = max(1, int(self.scorer.tokens / index.words.mean()))
        return [slice(start, min(start + size, pairs)) for start in range(0, pairs, size)]

    def _score(self, images: Side, texts: Side, image: Array, text: Array) -> Array:
        """Scores `[p]` of pairs, whose items alone are handed to the matcher."""
        (each_image, image), (each_text, text) = (np.unique(side, return_inverse=True) for side in (image, text))
        some = images.select(torch.from_numpy(each_image)), texts.select(torch.from_numpy(each_text))
        scores = self.scorer.matcher.score_pairs(*some, torch.from_numpy(image), torch.from_numpy(text))
        self.scorer.clock.count("pairs", len(image))
        return scores.float().cpu().numpy()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Note the seconds inside, the device's included."""
        start = time.perf_counter()
        yield
        if self.scorer.device.type == "cuda":
            torch.cuda.synchronize(self.scorer.device)
        self._seconds[stage] = round(time.perf_counter() - start, 3)


def pool_in_chunks(pool: Callable[[Side], Tensor], side: Side) -> Tensor:
    """`[n, d]` float32: the vectors of a side, made of so many items at a time."""
    parts = range(0, len(side), POOLED_AT_ONCE)
    return torch.cat([pool(side.slice(start, min(start + POOLED_AT_ONCE, len(side)))).float() for start in parts])


def check_finite(vectors: Tensor, what: str, names: list[str]) -> None:
    """Raise DataError where the vector of an item is not finite."""
    wrong = (~vectors.isfinite().all(1)).nonzero()
    if len(wrong):
        raise DataError(
            f"the vector of {what} {names[int(wrong[0])]} is not finite; use --precision off, or weights that did not "
            "diverge"
        )


def nearest(queries: Tensor, others: Tensor, keep: int) -> Array:
    """`[queries, others]` bool on the host: the `keep` largest dot products of each query, equal ones as listed."""
    keep = min(keep, len(others))
    found = np.empty((len(queries), len(others)), bool)
    step = max(1, AT_ONCE // len(others))
    for start in range(0, len(queries), step):
        near = queries[start : start + step] @ others.T
        found[start : start + step] = top_mask(near, keep).cpu().numpy()
    return found


def shortlist_facts(keep: int, chosen: Array, owner: Array) -> Facts:
    """What candidates `chosen [images, texts]` cost and save.

    k; scored, the share of pairs that were; ceiling, the share of images (txt) and texts (img) with a right answer
    among their candidates, which no recall can exceed.
    """
    hit = chosen[owner, np.arange(len(owner))]
    asked = np.unique(owner)
    of_images = np.bincount(owner, weights=hit, minlength=len(chosen))[asked] > 0
    ceiling = {"txt": float(of_images.mean()), "img": float(hit.mean())}
    return {"k": keep, "scored": float(chosen.mean()), "ceiling": ceiling}


def names_of(blocks: list[slice], chosen: Array) -> list[str]:
    """The files of blocks of pairs; those of other candidates are other ones."""
    digest = hashlib.blake2b(np.packbits(chosen).tobytes(), digest_size=8).hexdigest()
    return [f"pairs-{digest}-{block.start:09d}-{block.stop:09d}.npy" for block in blocks]
