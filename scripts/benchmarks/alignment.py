"""IAIS: what it adds to an update, and the objective of 64 pairs at once beside pair after pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config.sections import Optim
from data.batches.batch import Batch, Direction, Images, Pool, Ragged
from model.objective import Objective
from model.objective.hinge import Config as HingeConfig
from model.objective.hinge import Hinge
from model.objective.iais import FORMS, Config, Iais
from model.parts.attention import Attention
from model.parts.transformer import EncoderLayer
from model.uniter import Config as UniterConfig
from model.uniter import Uniter
from scripts.benchmarks.synthetic_stores import Shape
from scripts.benchmarks.timing import Row, close, interleave, one_thread
from train.assembly.optim import build_optimizer, clip
from train.distributed.host import keep_freed_memory
from train.loop.step import compute_losses, mine_hard_negatives

GROUP = "IAIS"
PAIRS = 64
MINED, KEPT = 31, 7
SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "img_dim": 64}


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """An update with and without, then the objective alone in both forms and two shapes."""
    del folder
    keep_freed_memory()  # as every training run does
    torch.manual_seed(0)
    with one_thread():
        yield from whole_updates(UniterConfig.model_validate(SMALL if quick else {}), 2 if quick else 5)
        shapes = [("64 wide, 4 heads", 64, 4, (2, 5, 10))]
        if not quick:
            shapes.insert(0, ("768 wide, 12 heads", 768, 12, (10, 36, 100)))
        for title, width, heads, regions in shapes:
            yield from objectives(Pairs(width, heads, regions), title, 2 if quick else 7)


# ---------------------------------------------------------------- a whole update


def whole_updates(config: UniterConfig, rounds: int) -> Iterator[Row]:
    """Mining, training and optimizer of one anchor a direction, the objectives taking turns on one model."""
    update = Update(config)
    forms: dict[str, Objective] = {"the hinge alone": Hinge(HingeConfig.model_validate({}))}
    forms |= {form: Iais(Config.model_validate({"IAIS": form})) for form in FORMS}
    found = interleave({name: partial(update, of) for name, of in forms.items()}, rounds)
    size = f"{config.num_hidden_layers} layers {config.hidden_size} wide, {MINED}/{KEPT} negatives"
    for form in FORMS:
        note = f"{size}, one anchor a direction, one thread; aim: at most 1.10 times the time"
        yield found.row(GROUP, f"update with {form}", form, "the hinge alone", 1, "updates/s", 1 / 1.1, note)


class Update:
    """A model, and a batch of each direction to train it on."""

    def __init__(self, config: UniterConfig) -> None:
        self.model = Uniter(config).train()
        optim = Optim()
        self.optimizer = build_optimizer(optim, self.model.named_parameters(), self.model.decayed_norms)
        self.grad_norm = optim.grad_norm
        self.batches = [made_batch(direction, config) for direction in ("i", "t")]

    def __call__(self, objective: Objective) -> None:
        for batch in self.batches:
            hard, _ = mine_hard_negatives(self.model, batch, KEPT, one_type)
            compute_losses(self.model, objective, hard, 0.5, one_type, anchors=1).total.backward()
        clip(self.model.parameters(), self.grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def one_type() -> torch.autocast:
    """No mixed precision."""
    return torch.autocast("cpu", enabled=False)


def made_batch(direction: Direction, config: UniterConfig) -> Batch:
    """One anchor and its pool, of lifelike counts."""
    rng = np.random.default_rng(0)
    many, one = torch.arange(MINED + 1)[None], torch.zeros(1, MINED + 1, dtype=torch.int64)
    images, texts = (1, MINED + 1) if direction == "i" else (MINED + 1, 1)
    shape = Shape(images, texts)
    regions = torch.from_numpy(shape.draw_regions(rng))
    words = torch.from_numpy(rng.integers(shape.words[0], shape.words[1] + 1, texts)) + 2
    count = int(regions.sum())
    features = Ragged.of(torch.randn(count, config.img_dim).half(), regions)
    ids = Ragged.of(torch.randint(106, config.vocab_size, (int(words.sum()),)), words)
    image, text = (one, many) if direction == "i" else (many, one)
    pool = Pool.of(image, text, words, direction)
    owner = torch.zeros_like(words)
    return Batch(Images(features, torch.rand(count, 7)), ids, torch.arange(len(features)), owner, pool)


# ---------------------------------------------------------------- the objective alone


class Pairs:
    """What the last layer is given at the words and regions of some pairs, and that layer."""

    def __init__(self, width: int, heads: int, regions: tuple[int, int, int]) -> None:
        rng = np.random.default_rng(0)
        shape = Shape(PAIRS, PAIRS, regions=regions)
        self.layer = EncoderLayer(width, heads, 4 * width, "gelu", 0.0, 0.0)
        self.regions = torch.from_numpy(shape.draw_regions(rng))
        self.words = torch.from_numpy(rng.integers(shape.words[0], shape.words[1] + 1, PAIRS))
        self.states = nn.Parameter(torch.randn(int((self.words + self.regions).sum()), width))

    def at_once(self, form: str) -> Tensor:
        """Ours: one projection, all pairs together; `[p]`."""
        return FORMS[form](Attention.of(self.layer, self.states, self.words, self.regions).blocks())

    def one_by_one(self, form: str) -> Tensor:
        """The published way: for each pair and block, project the padded pair and mask what is not the block."""
        n, k = int(self.words.max()), int(self.regions.max())
        counts = torch.stack([self.words, self.regions], 1)
        losses = []
        parts = self.states.split(counts.flatten().tolist())
        for (words, regions), word, region in zip(counts.tolist(), parts[::2], parts[1::2], strict=True):
            pad = nn.functional.pad
            states = torch.cat([pad(word, (0, 0, 0, n - words)), pad(region, (0, 0, 0, k - regions))])
            sides = slice(0, words), slice(n, n + regions)
            own, out, back, other = (self._block(states, a, b) for a in sides for b in sides)
            losses.append(PLAIN[form](own, out, back, other))
        return torch.stack(losses)

    def _block(self, states: Tensor, rows: slice, columns: slice) -> Tensor:
        heads = self.layer.heads
        query, key = (part(states).view(len(states), heads, -1).transpose(0, 1)
                      for part in (self.layer.query, self.layer.key))
        inside = [torch.zeros(len(states)) for _ in range(2)]
        inside[0][rows] = inside[1][columns] = 1
        mask = torch.outer(*inside)
        weights = (query @ key.transpose(1, 2) / query.shape[2] ** 0.5 + (1 - mask) * -10000.0).softmax(2) * mask
        return weights.mean(0)[rows, columns]

    def from_projections(self, form: str) -> dict[str, Callable[[], Tensor]]:
        """Ours and a lean loop over pairs, both given queries and keys: what is left where nothing is done twice."""
        with torch.no_grad():
            query, key = self.layer.project(self.states, self.layer.query, self.layer.key).unbind(1)
        query, key = nn.Parameter(query.contiguous()), nn.Parameter(key.contiguous())
        lengths = torch.stack([self.words, self.regions], 1).flatten().tolist()

        def loop() -> Tensor:
            queries, keys = query.transpose(0, 1).split(lengths, 1), key.transpose(0, 1).split(lengths, 1)
            return torch.stack([PLAIN[form](*(
                (a @ b.transpose(1, 2) / a.shape[2] ** 0.5).softmax(2).mean(0)
                for a in queries[at : at + 2] for b in keys[at : at + 2]
            )) for at in range(0, len(queries), 2)])

        attention = Attention(query, key, self.words, self.regions)
        return {"at once": lambda: FORMS[form](attention.blocks()), "lean loop": loop}


def objectives(pairs: Pairs, title: str, rounds: int) -> Iterator[Row]:
    """Forward and backward of the objective from what the last layer is given, and from queries and keys."""
    shape = f"{title}; {PAIRS} pairs of {float(pairs.words.float().mean()):.0f} words and "
    shape += f"{float(pairs.regions.float().mean()):.0f} regions (up to {int(pairs.regions.max())})"
    for form in FORMS:
        ways = {"at once": partial(pairs.at_once, form), "pair after pair": partial(pairs.one_by_one, form)}
        worst = close(ways["at once"](), ways["pair after pair"]())
        found = interleave({name: backward(way) for name, way in ways.items()}, rounds)
        note = f"{shape}; from the last layer's input, the loop projecting for each block; equal to {worst:.0e}"
        yield found.row(GROUP, f"{form}, {title}", "at once", "pair after pair", PAIRS, "pairs/s", 10.0, note)
        lean = pairs.from_projections(form)
        close(lean["at once"](), lean["lean loop"]())
        found = interleave({name: backward(way) for name, way in lean.items()}, rounds)
        note = "both from the same queries and keys: on a CPU the arithmetic is left, on a GPU the launches"
        yield found.row(GROUP, f"{form}, {title}, no projection", "at once", "lean loop", PAIRS, "pairs/s", None, note)


def backward(way: Callable[[], Tensor]) -> Callable[[], None]:
    """The same with its gradient."""
    return lambda: way().sum().backward()


def plain_singular(own: Tensor, out: Tensor, _: Tensor, other: Tensor) -> Tensor:
    nearest = out.argmax(1)
    seen = other[nearest][:, nearest].softmax(1)
    return ((own - seen) * (own.log() - seen.log())).sum() / len(own)


def plain_distributed(own: Tensor, out: Tensor, back: Tensor, _: Tensor) -> Tensor:
    through = out @ back
    forth = through * (through.log() - (own + 1e-6).log())
    return (forth + own * (own.log() - (through + 1e-6).log())).sum() / len(own)


PLAIN: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "singular": plain_singular,
    "distributed": plain_distributed,
}
"""The objective of one pair from its four blocks."""
