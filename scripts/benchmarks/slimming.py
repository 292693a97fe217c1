"""LAPS's scores: all pairs from what images and texts have by themselves, against a loop that makes every vector.

Towers do not take part: both ways are given the same tokens, and the same network over patches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.batches.batch import Ragged
from model.laps import Config, Laps
from model.matcher import Side
from scripts.benchmarks.by_text import loop, margins
from scripts.benchmarks.timing import Rounds, Row, interleave, one_thread, product_peak
from train.distributed.host import keep_freed_memory

GROUP = "slimming"
OURS, PEER = "all at once", "a text at a time"
WORDS = (8, 8, 26)
AIM, LESS = 3.0, 5.0
"""How many times as fast, and how many times less memory, we want to be."""
TOLERANCE, EDGE = 1e-5, 1e-6
"""How near scores must be, and gradients relative to their largest; how near two numbers are that rounding may swap."""
SPREAD = 10.0
"""What aggregated patches differ by; fresh weights make them all alike, so that which is the best hangs on rounding."""
PART = 8
"""In evaluation the loop is timed on one of so many texts, and its time is scaled."""
TINY: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "ViT": {"vision": {"model_type": "vit", **TINY}, "sparse_ratio": 0.5, "aggr_ratio": 0.4},
    "Swin": {
        "vision": {"model_type": "swin", "image_size": 28, "embed_dim": 8, "depths": [1], "num_heads": [1]},
        "sparse_ratio": 0.8,
        "aggr_ratio": 0.6,
    },
}
"""Stand-ins for the towers that have as many patches: 196 and [CLS], and 49."""
Way = Callable[[Laps, Ragged, Ragged], Tensor]


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """For each shape a batch with its gradient, what is kept for that, and an evaluation."""
    del folder
    keep_freed_memory()  # as every training run does
    batch, growth, evaluation = (6, (4, 8, 16), (5, 16)) if quick else (64, (64, 128, 256), (200, 1000))
    with one_thread():
        limit = product_peak(0.2 if quick else 2.0)
        for shape in SHAPES:
            matcher = built(shape)
            yield from with_gradient(shape, matcher, batch, limit, 2 if quick else 3)
            yield memory(shape, matcher, batch, growth)
            yield peak(shape, matcher, batch)
            yield from evaluated(shape, matcher, evaluation, limit, 2 if quick else 3)


def built(shape: str) -> Laps:
    """The matcher, 512 wide where patches and words meet."""
    torch.manual_seed(0)
    matcher = Laps(Config.model_validate({"text": {"model_type": "bert", **TINY}, **SHAPES[shape]}))
    assert matcher.aggregate is not None
    nn.init.constant_(matcher.aggregate.scale, SPREAD)
    return matcher


def sides(matcher: Laps, images: int, texts: int) -> tuple[Ragged, Ragged]:
    """Tokens of images and texts; those of an item have something in common."""
    source = torch.Generator().manual_seed(0)
    words = torch.from_numpy(np.random.default_rng(0).triangular(*WORDS, texts).astype(np.int64))

    def items(lengths: Tensor) -> Ragged:
        width = matcher.config.embed_size
        shared = torch.randn(len(lengths), width, generator=source).repeat_interleave(lengths, 0)
        return Ragged.of(shared + torch.randn(int(lengths.sum()), width, generator=source), lengths)

    return items(torch.full((images,), matcher.vision.patches + matcher.vision.has_cls)), items(words)


# ---------------------------------------------------------------- what is measured


def with_gradient(shape: str, matcher: Laps, size: int, limit: float, rounds: int) -> Iterator[Row]:
    """Scores of as many texts as images, and their gradient; then how far that is from the operations it takes."""
    images, texts = sides(matcher, size, size)
    sure = margins(matcher, images, texts, best=True) > EDGE
    weights = torch.randn(sure.shape, generator=torch.Generator().manual_seed(1)) * sure
    ours, theirs = (differentiated(way, matcher, images, texts, weights) for way in WAYS.values())
    same = equal(ours[0], theirs[0], sure) + f", gradients to {nearest(ours[1], theirs[1]):.0e} of their largest"
    works = {name: partial(differentiated, way, matcher, images, texts, weights) for name, way in WAYS.items()}
    times = interleave(works, rounds, warm=False)
    note = f"{described(matcher, images, texts)}, one thread; {same}"
    name = f"{shape}, forward and backward"
    yield times.row(GROUP, name, OURS, PEER, size * size, "pairs/s", AIM, note)
    yield floor(name, times, operations(matcher, size, texts, backward=True), size * size, limit)


def evaluated(shape: str, matcher: Laps, size: tuple[int, int], limit: float, rounds: int) -> Iterator[Row]:
    """Scores without gradient; the loop is given a part of the texts."""
    images, texts = sides(matcher, *size)
    part = texts.select(torch.arange(0, len(texts), PART))
    works = {OURS: partial(scored, at_once, matcher, images, texts), PEER: partial(scored, loop, matcher, images, part)}
    ours, theirs = (scored(way, matcher, images, part) for way in WAYS.values())
    same = equal(ours, theirs, margins(matcher, images, part) > EDGE)
    times = interleave(works, rounds, warm=False)
    scaled = Rounds(times.seconds | {PEER: [len(texts) / len(part) * once for once in times.seconds[PEER]]})
    told = f"the loop timed on {len(part)} texts, scaled"
    name, note = f"{shape}, evaluation", f"{described(matcher, images, texts)}, one thread; {told}; {same}"
    pairs = size[0] * size[1]
    yield scaled.row(GROUP, name, OURS, PEER, pairs, "pairs/s", AIM, note)
    yield floor(name, scaled, operations(matcher, size[0], texts, backward=False), pairs, limit)


def memory(shape: str, matcher: Laps, size: int, growth: Sequence[int]) -> Row:
    """What autograd keeps between forward and backward, and how ours grows with the number of texts."""
    ours, theirs = (saved(way, matcher, *sides(matcher, size, size)) / 2**20 for way in WAYS.values())
    grown = [saved(at_once, matcher, *sides(matcher, size, texts)) / 2**20 for texts in growth]
    slopes = [1024 * (b - a) / (n - m) for (m, a), (n, b) in pairwise(zip(growth, grown, strict=True))]
    told = ", ".join(f"{texts} {each:.1f}" for texts, each in zip(growth, grown, strict=True))
    told += f": {grown[0] - slopes[0] * growth[0] / 1024:.1f} MiB"
    told += f" and {', then '.join(f'{slope:.0f}' for slope in slopes)} KiB a text"
    note = f"less is better; {1024 * theirs / size**2:.0f} KiB a pair there; ours with so many texts {told}"
    return Row(GROUP, f"{shape}, kept for the gradient", ours, theirs, "MiB", PEER, theirs / ours, LESS, note)


def peak(shape: str, matcher: Laps, size: int) -> Row:
    """How far resident memory rises on the way to the gradient."""
    # Ours last: what the loop leaves behind is given back before it.
    theirs, ours = (rise(way, matcher, *sides(matcher, size, size)) for way in (loop, at_once))
    note = "less is better; the most that scores and gradient take beside tokens and weights"
    return Row(GROUP, f"{shape}, peak of resident memory", ours, theirs, "MiB", PEER, theirs / ours, None, note)


def floor(name: str, times: Rounds, operations: float, pairs: int, limit: float) -> Row:
    """Ours beside the time of its operations."""
    ours, least = 1e6 * times.typical(OURS) / pairs, 1e6 * operations / limit / pairs
    against = f"its {operations / pairs / 1e6:.1f} Mflop at the {limit / 1e9:.0f} GFLOP/s of matrix products on a core"
    return Row(GROUP, f"{name}, limit", ours, least, "us a pair", against, least / ours)


def operations(matcher: Laps, images: int, texts: Ragged, backward: bool) -> float:
    """Multiplications and additions that the reformulation needs, for all pairs.

    Neither padding nor weights that are zero are counted, nor what is computed again to save memory; backward costs
    twice the forward pass, but for the choice of patches.
    """
    width, patches = matcher.config.embed_size, matcher.vision.patches
    assert matcher.aggregate is not None
    hidden, rows = matcher.aggregate.squeeze.out_features, matcher.aggregate.weigh.out_features
    kept = matcher.rule.kept(patches)
    nonzero, words = rows * kept + (patches - kept), float(texts.lengths.sum())
    image = 2 * patches * (patches * width + width * hidden + hidden * rows)
    of_words = words * 2 * (width * (patches + matcher.vision.has_cls) + nonzero)
    lengths = len(texts) * 2 * (rows * kept**2 + (patches - kept) ** 2)
    choice = len(texts) * 2 * patches * width
    return images * ((3 if backward else 1) * (image + of_words + lengths) + choice)


def described(matcher: Laps, images: Ragged, texts: Ragged) -> str:
    words = float(texts.lengths.float().mean())
    tokens = matcher.vision.patches + matcher.vision.has_cls
    return f"{len(images)} images of {tokens} x {matcher.config.embed_size}, {len(texts)} texts of {words:.1f} words"


# ---------------------------------------------------------------- the two ways


def at_once(matcher: Laps, images: Ragged, texts: Ragged) -> Tensor:
    """Ours."""
    return matcher.score(Side(images), Side(texts))


WAYS: dict[str, Way] = {OURS: at_once, PEER: loop}


def scored(way: Way, matcher: Laps, images: Ragged, texts: Ragged) -> Tensor:
    """Forward alone."""
    with torch.inference_mode():
        return way(matcher, images, texts)


def differentiated(
    way: Way, matcher: Laps, images: Ragged, texts: Ragged, weights: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Scores, and gradients of their weighted sum: of images, of texts, and of all weights of the network."""
    assert matcher.aggregate is not None
    leaves = [Ragged(side.values.clone().requires_grad_(), side.offsets) for side in (images, texts)]
    scores = way(matcher, *leaves)
    wanted = [leaf.values for leaf in leaves] + list(matcher.aggregate.parameters())
    of_images, of_texts, *others = torch.autograd.grad((scores * weights).sum(), wanted)
    return scores.detach(), [of_images, of_texts, torch.cat([grad.flatten() for grad in others])]


# ---------------------------------------------------------------- how they are compared


def equal(ours: Tensor, theirs: Tensor, sure: Tensor) -> str:
    """In words how equal scores are; raises RuntimeError where they are not."""
    worst = float((ours - theirs).abs()[sure].max())
    if not worst <= TOLERANCE or float(sure.float().mean()) < 0.9:
        raise RuntimeError(f"scores differ by {worst:.0e}, {int(sure.sum())} compared: their times mean nothing")
    return f"scores equal to {worst:.0e} but for {int((~sure).sum())} that hang on rounding"


def nearest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference of gradients, relative to the largest of its kind; raises RuntimeError where too large."""
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"gradients differ by {worst:.0e} of their largest: their times mean nothing")
    return worst


def saved(way: Way, matcher: Laps, images: Ragged, texts: Ragged) -> int:
    """Bytes that autograd saves for the pass backward, each piece of memory counted once."""
    leaves = [Ragged(side.values.requires_grad_(), side.offsets) for side in (images, texts)]
    kept: dict[int, Tensor] = {}  # holding them, so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        way(matcher, *leaves)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def rise(way: Way, matcher: Laps, images: Ragged, texts: Ragged) -> float:
    """MiB that resident memory rises while scores and gradients are computed, above what is there without them."""
    weights = torch.ones(len(images), len(texts))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    differentiated(way, matcher, images, texts, weights)
    return resident("VmHWM") - before


def resident(kind: str) -> float:
    """MiB of this process's memory that are (VmRSS), or were at most (VmHWM), in the machine's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 2**10
