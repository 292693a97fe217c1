"""Packed against padded: an encoder layer of BERT-base's shape, forward and backward, with 40 % of padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.batches.batch import Ragged
from model.parts.transformer import Encoder, EncoderLayer, Packing
from scripts.benchmarks import padded
from scripts.benchmarks.timing import Row, close, interleave, one_thread

GROUP = "packed encoder"
PADDING = 0.4


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """Forward and backward together (the aim), and the forward pass alone."""
    del folder
    torch.manual_seed(0)
    width, heads, count, longest = (64, 4, 16, 40) if quick else (768, 12, 32, 100)
    encoder = Encoder(1, lambda: EncoderLayer(width, heads, 4 * width, "gelu", 0.0, 0.0))
    lengths = torch.from_numpy(np.sort(draw_lengths(count, longest)))
    share = 1 - float(lengths.sum()) / (count * longest)
    race = Race(encoder, Ragged.of(torch.randn(int(lengths.sum()), width), lengths))
    rounds = 3 if quick else 9
    with one_thread():
        checked = race.check()
        both = interleave(race.contestants(backward=True), rounds)
        forward = interleave(race.contestants(backward=False), rounds)
    shape = f"1 layer, width {width}, {heads} heads, {count} sequences of {lengths[0]} to {longest}"
    note = f"{shape}, {100 * share:.0f} % padding, one thread; outputs and gradients equal to {checked:.0e}"
    tokens = int(lengths.sum())
    yield both.row(GROUP, "forward and backward", "packed", "padded", tokens, "tokens/s", 1.6, note)
    yield forward.row(GROUP, "forward", "packed", "padded", tokens, "tokens/s")


def draw_lengths(count: int, longest: int) -> np.ndarray:
    """Random lengths `[count]`, one of them `longest`, whose padding is within half a percent of 40 %."""
    rng = np.random.default_rng(0)
    while True:
        lengths = rng.integers(round((1 - 2 * PADDING) * longest), longest + 1, count)
        lengths[0] = longest
        if abs(1 - lengths.mean() / longest - PADDING) < 0.005:
            return lengths


class Race:
    """The two ways over the same sequences with the same weights."""

    def __init__(self, encoder: Encoder, sequences: Ragged) -> None:
        self.encoder, self.packing = encoder, Packing(sequences.lengths)
        self.weigh = torch.randn_like(sequences.values)  # makes a number of the outputs, to go backward from
        self.packed_input = nn.Parameter(sequences.values)
        values, self.mask = sequences.padded()
        self.padded_input = nn.Parameter(values)
        self.additive = padded.additive(self.mask)

    def packed(self) -> Tensor:
        """`[total, d]`."""
        return list(self.encoder.states(self.packed_input, self.packing))[-1]

    def padded(self) -> Tensor:
        """`[b, l, d]`, padding included."""
        return padded.encode(self.encoder, self.padded_input, self.additive)

    def contestants(self, backward: bool) -> dict[str, Callable[[], object]]:
        """Both ways, with or without the pass backward."""
        if backward:
            return {"packed": lambda: self.gradients(self.packed), "padded": lambda: self.gradients(self.padded)}
        return {"packed": torch.inference_mode()(self.packed), "padded": torch.inference_mode()(self.padded)}

    def gradients(self, forward: Callable[[], Tensor]) -> list[Tensor]:
        """Gradients of every weight and of the real positions' inputs."""
        out = forward()
        real = out if out.dim() == 2 else out[self.mask]
        weights = [*self.encoder.parameters(), self.packed_input if out.dim() == 2 else self.padded_input]
        *others, inputs = torch.autograd.grad((real * self.weigh).sum(), weights)
        return [*others, inputs if out.dim() == 2 else inputs[self.mask]]

    def check(self) -> float:
        """The largest relative difference on real positions, of outputs and gradients."""
        worst = close(self.packed(), self.padded()[self.mask])
        pairs = zip(self.gradients(self.packed), self.gradients(self.padded), strict=True)
        return max(worst, *(close(ours, theirs) for ours, theirs in pairs))
