"""Packed against padded: an encoder layer of BERT-base's shape, forward and backward, with 40 % of padding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import Ragged
from model.transformer import Encoder, EncoderLayer, Packing
from scripts.benchmarks import padded
from scripts.benchmarks.timing import Row, close, interleave

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
    checked = race.check()
    found = interleave(race.contestants(backward=True), 3 if quick else 9)
    shape = f"1 layer, width {width}, {heads} heads, {count} sequences of {lengths[0]} to {longest}"
    note = f"{shape}, {100 * share:.0f} % padding; outputs and gradients equal to {checked:.0e}"
    tokens = int(lengths.sum())
    yield found.row(GROUP, "forward and backward", "packed", "padded", tokens, "tokens/s", 1.6, note)
    found = interleave(race.contestants(backward=False), 3 if quick else 9)
    yield found.row(GROUP, "forward", "packed", "padded", tokens, "tokens/s")


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

    def contestants(self, backward: bool) -> dict[str, object]:
        return {"packed": lambda: self.run(self.packed, backward), "padded": lambda: self.run(self.padded, backward)}

    def run(self, forward, backward: bool) -> None:
        if not backward:
            with torch.inference_mode():
                forward()
            return
        self.gradients(forward)

    def gradients(self, forward) -> list[Tensor]:
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
