"""BFAN's scores: all images with all captions at once, against the published loop over captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches.batch import Ragged
from model.parts.focal import Focus, all_pairs
from scripts.benchmarks.timing import Row, interleave, one_thread

GROUP = "late interaction"
WIDTH, REGIONS, WORDS = 1024, 36, (8, 13, 22)
AIM = 4.0
TOLERANCE = EDGE = 1e-5
"""How near scores must be, and how near its threshold a weight must be for rounding to decide on it."""
Way = Callable[[Ragged, Ragged, Focus], Tensor]
Work = Callable[[Way, Ragged, Ragged, Focus], None]


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """A score matrix with either kind of focus, then a batch as training takes it, with its gradient."""
    del folder
    images, texts = sides(*((6, 5) if quick else (128, 64)))
    batch = sides(*((4, 4) if quick else (48, 48)))
    equal, prob = (Focus(kind, 20.0, "unmasked") for kind in ("equal", "prob"))
    with one_thread():
        yield race("score matrix, equal", images, texts, equal, 2 if quick else 7, scored)
        yield race("score matrix, prob", images, texts, prob, 2 if quick else 7, scored)
        yield race("batch with gradient, equal", *batch, equal, 2 if quick else 5, differentiated)


def sides(images: int, texts: int) -> tuple[Ragged, Ragged]:
    """Unit rows of the published shape: 36 regions, and about 14 words."""
    source = torch.Generator().manual_seed(0)
    words = torch.from_numpy(np.random.default_rng(0).triangular(*WORDS, texts).astype(np.int64))

    def items(lengths: Tensor) -> Ragged:
        shared = torch.randn(len(lengths), WIDTH, generator=source).repeat_interleave(lengths, 0)
        own = torch.randn(int(lengths.sum()), WIDTH, generator=source)
        return Ragged.of(F.normalize(shared + own, dim=1), lengths)

    return items(torch.full((images,), REGIONS)), items(words)


def race(name: str, images: Ragged, texts: Ragged, focus: Focus, rounds: int, work: Work) -> Row:
    """The two in turn; no row without equal scores."""
    ours, peer = "all at once", "a caption at a time"
    ways: dict[str, Way] = {ours: all_pairs, peer: loop}
    scores = {name: way(images, texts, focus) for name, way in ways.items()}
    same = equal_scores(scores[ours], scores[peer], distances(images, texts, focus))
    found = interleave({way: partial(work, function, images, texts, focus) for way, function in ways.items()}, rounds)
    shape = f"{len(images)} images x {len(texts)} captions of {float(texts.lengths.float().mean()):.0f} words"
    note = f"{shape}, width {WIDTH}, float32, one thread; {same}"
    return found.row(GROUP, name, ours, peer, len(images) * len(texts), "pairs/s", AIM, note)


def scored(way: Way, images: Ragged, texts: Ragged, focus: Focus) -> None:
    """Forward alone."""
    with torch.inference_mode():
        way(images, texts, focus)


def differentiated(way: Way, images: Ragged, texts: Ragged, focus: Focus) -> None:
    """Forward and backward."""
    leaves = [Ragged(side.values.clone().requires_grad_(), side.offsets) for side in (images, texts)]
    way(leaves[0], leaves[1], focus).sum().backward()


def equal_scores(ours: Tensor, theirs: Tensor, distance: Tensor) -> str:
    """In words how equal scores are; raises RuntimeError where they are not.

    Cells in which a weight lies at `distance` from its threshold that rounding can bridge are left out.
    """
    sure = distance > EDGE
    worst = float((ours - theirs).abs()[sure].max())
    if not worst <= TOLERANCE or float(sure.float().mean()) < 0.99:
        raise RuntimeError(f"scores differ by {worst:.0e}: their times mean nothing")
    return f"scores equal to {worst:.0e}, but for {int((~sure).sum())} that hang on a rounded threshold"


def loop(images: Ragged, texts: Ragged, focus: Focus) -> Tensor:
    """The published way: each caption repeated for all images, two attentions, attended vectors of full width."""

    def scores(regions: Tensor, words: Tensor) -> Tensor:
        return attend(words, regions, focus) + attend(regions, words, focus)

    return by_caption(images, texts, scores)


def distances(images: Ragged, texts: Ragged, focus: Focus) -> Tensor:
    """How near the nearest weight of each pair lies to its threshold."""

    def nearest(queries: Tensor, context: Tensor) -> Tensor:
        return weigh(queries, context, focus)[1].abs().amin((1, 2))

    return by_caption(images, texts, lambda regions, words: nearest(words, regions).minimum(nearest(regions, words)))


def by_caption(images: Ragged, texts: Ragged, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`of` all regions `[n, r, d]` and each caption in turn, as often as there are images: `[n, m]`."""
    regions = images.values.view(len(images), -1, WIDTH)
    captions = texts.values.split(texts.lengths.tolist())
    return torch.stack([of(regions, words.repeat(len(images), 1, 1)) for words in captions], 1)


def attend(queries: Tensor, context: Tensor, focus: Focus) -> Tensor:
    """Mean cosine `[n]` of queries `[n, q, d]` with what they attend to in `context [n, s, d]`."""
    weights, above = weigh(queries, context, focus)
    kept = weights * (above > 0)
    attended = (kept / kept.sum(2, keepdim=True)) @ context
    return F.cosine_similarity(queries, attended, dim=2).mean(1)


def weigh(queries: Tensor, context: Tensor, focus: Focus) -> tuple[Tensor, Tensor]:
    """Weights `[n, q, s]`, and how far each is above what it must exceed."""
    bent = F.leaky_relu(context @ queries.transpose(1, 2), 0.1)
    bent = bent / (bent.norm(dim=2, keepdim=True) + 1e-8)
    weights = F.softmax(focus.scale * bent.transpose(1, 2), dim=2)
    if focus.kind == "equal":
        return weights, weights * weights.shape[2] - weights.sum(2, keepdim=True)
    roots = weights.sqrt()
    return weights, weights * roots.sum(2, keepdim=True) - (weights * roots).sum(2, keepdim=True)
