"""ISDa (Ren et al., ACL 2021): the distance between the object relations that words see and those that regions see.

Internal structure distance with annotation (Ren et al., ACL 2021); the pooling over phrases is this project's, because
the authors published none. Lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from data.batches.pairs import Array, PairIndex
from data.draws import generator
from data.records.phrases import Objects, read_objects
from train.assembly.recipe import Parts
from train.assembly.splits import Split
from train.metrics.journal import Journal
from train.metrics.throughput import report_throughput
from train.scoring.scorer import Scorer, read_images

EPS = 1e-12
CONFIDENCE, RESAMPLES = 0.95, 1000
PAIRS = 64
"""Pairs at a time: their attention is padded to the longest of them."""


class ObjectAttention(NamedTuple):
    """Attention `[p, k, k]` float64 from object to object; rows sum to 1, those of padding are zero."""

    words: Tensor
    regions: Tensor


def object_attention(attention: Tensor, members: Tensor) -> Tensor:
    """Attention among tokens as attention among objects: the mean over the looking tokens, the sum over those seen.

    Args:
        attention: `[p, n, n]` among the words, or the regions, of p pairs.
        members: `[p, k, m]` positions of each object's tokens, padded with -1; an object without any is padding.

    Returns:
        `[p, k, k]` float64, each row divided by its sum.
    """
    belongs = torch.zeros(*members.shape[:2], attention.shape[1] + 1, dtype=torch.float64, device=attention.device)
    belongs = belongs.scatter_(2, members % (attention.shape[1] + 1), 1.0)[..., :-1]
    seen = belongs @ attention.double() @ belongs.transpose(1, 2)
    seen = seen / belongs.sum(2, keepdim=True).clamp(min=1)
    return seen / seen.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def isda(attention: ObjectAttention) -> Tensor:
    """Symmetric KL divergence of the two, summed over objects: `[p]` float64. Padding adds nothing."""
    words, regions = attention
    return ((words - regions) * (torch.log(words + EPS) - torch.log(regions + EPS))).sum((1, 2))


def check_offers_attention(parts: Parts) -> None:
    """Raise ConfigError where the matcher cannot be measured."""
    if "attention" not in parts.matcher.offers:
        raise ConfigError(
            f"matcher {parts.run.matcher.name} with these settings offers no attention; measure without its parity "
            "switches (for uniter: --hn_image_gather_offset correct)"
        )


def measure_isda(parts: Parts, split: Split, journal: Journal) -> dict[str, Any] | None:
    """ISDa over the captions of a split that name at least two objects, each with its own image; ranks share them.

    The matcher offers attention (see `check_offers_attention`).

    Returns:
        On rank 0 the entry for results.json, None elsewhere: the mean over pairs and its bootstrap interval, the mean
        of the same divided by each pair's objects, what attention that looks everywhere alike would have (a low value
        may mean no more than that), how many pairs there were and how many named too few objects.

    Raises:
        DataError: no caption has annotated objects, or one names what its image does not have.
    """
    index, comm, scorer = split.index, parts.comm, parts.scorer
    journal.say(f"ISDa of {len(index.texts)} captions; {len(split.left_out)} images or captions left out")
    of_all: list[tuple[int, int, float, float]] = []
    few = unknown = 0
    mine = np.arange(len(index.texts))[comm.rank :: comm.size]
    with report_throughput("evaluate", "ISDa", scorer.clock, comm, journal):
        for texts in (mine[start : start + PAIRS] for start in range(0, len(mine), PAIRS)):
            objects = objects_of_texts(index, texts)
            chosen = [at for at, found in enumerate(objects) if found is not None and len(found.words) > 1]
            few += sum(found is not None and len(found.words) < 2 for found in objects)
            unknown += objects.count(None)
            if chosen:
                given = [found for at in chosen if (found := objects[at]) is not None]
                seen, flat = attend(scorer, index, texts[chosen], given)
                counts = [len(found.words) for found in given]
                of_all += zip(texts[chosen].tolist(), counts, isda(seen).tolist(), isda(flat).tolist(), strict=True)
        shared = comm.all_gather_object((of_all, few, unknown))
    if comm.rank:
        return None
    together = sorted(item for found, _, _ in shared for item in found)
    if not together:
        folder = index.sources[0].texts.folder
        raise DataError(f"{folder}: no caption names two annotated objects; pack it from phrases with boxes")
    texts, objects_each, each, flat_each = map(np.array, zip(*together, strict=True))
    counted = {"with_fewer_objects": sum(one for _, one, _ in shared), "unannotated": sum(one for *_, one in shared)}
    counted |= {"flat": float(flat_each.mean()), "left_out": list(split.left_out)}
    return summary(each, objects_each, index.owner[texts], parts.run.seed) | counted


def objects_of_texts(index: PairIndex, texts: Array) -> list[Objects | None]:
    """The annotated objects of each caption among the regions of its image; None where its source had no phrases."""
    owners, image = np.unique(index.owner[texts], return_inverse=True)
    boxes = np.split(read_images(index, owners).boxes.numpy(), np.cumsum(index.regions[owners])[:-1])
    return [
        read_objects(index.record(text), boxes[at], f"caption {index.texts[text]} of {index.images[owners[at]]}")
        for text, at in zip(texts, image, strict=True)
    ]


@torch.inference_mode()
def attend(
    scorer: Scorer, index: PairIndex, texts: Array, objects: Sequence[Objects]
) -> tuple[ObjectAttention, ObjectAttention]:
    """Attention among the objects of some captions with their own images; and what it were, were it the same to all."""
    blocks = scorer.score_with_attention(index, index.owner[texts], texts)[1].blocks()
    words, regions = (stack_lists(lists).to(scorer.device) for lists in zip(*objects, strict=True))
    sides = (blocks.own, words), (blocks.other, regions)
    seen = ObjectAttention(*(object_attention(block, members) for block, members in sides))
    return seen, ObjectAttention(*(object_attention(torch.ones_like(block), members) for block, members in sides))


def stack_lists(lists: Sequence[Array]) -> Tensor:
    """Index lists `[k, m]` of several pairs as one tensor, padded with -1."""
    shape = np.max([part.shape for part in lists], 0)
    out = np.full((len(lists), *shape), -1)
    for row, part in zip(out, lists, strict=True):
        row[: part.shape[0], : part.shape[1]] = part
    return torch.from_numpy(out)


def summary(each: Array, objects: Array, owner: Array, seed: int) -> dict[str, Any]:
    """Means over pairs, and the interval of the means of as many images drawn again with all their captions.

    Captions of one image share its regions: drawn one by one they would seem to say more than they do.
    """
    rng = generator(seed, "isda-bootstrap")
    _, image = np.unique(owner, return_inverse=True)
    sums, counts = np.bincount(image, each), np.bincount(image)
    drawn = (rng.integers(0, len(sums), len(sums)) for _ in range(RESAMPLES))
    means = np.array([sums[images].sum() / counts[images].sum() for images in drawn])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    found = {"mean": each.mean(), "low": low, "high": high, "rowmean": (each / objects).mean()}
    counted = {"pairs": len(each), "confidence": CONFIDENCE, "resamples": RESAMPLES}
    return {name: float(value) for name, value in found.items()} | counted


SHOWN = ("mean", "low", "high", "confidence", "pairs", "flat", "checkpoint")
"""What a kept entry needs to be shown."""


def format_line(found: dict[str, Any]) -> str:
    """The result in one line."""
    span = f"{100 * found['confidence']:.0f} % {found['low']:.4f} to {found['high']:.4f}"
    flat = f"attention that looks everywhere alike has {found['flat']:.4f}"
    return f"ISDa {found['mean']:.4f} ({span}) over {found['pairs']} pairs, lower is better; {flat}\n"
