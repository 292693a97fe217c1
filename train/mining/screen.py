"""Screening of tiles: fast, approximate scores with a proven error bound.

What a tile says only decides which candidates are looked at again, so its precision is a matter of speed alone: the
lists are the same to the byte. Half precision is several times faster where the processor multiplies it natively and
a hundred times slower where it does not; `choose_screen` tries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from config.errors import ConfigError, DataError

ROWS = 4096
"""Rows of which norms are taken at a time."""
SINGLE, LARGEST, SMALLEST = 2.0**-24, 2.0**100, 2.0**-24
"""The rounding of float32; the longest row that is taken; what a float16 sum loses where it is next to nothing."""
LOWEST = torch.finfo(torch.float32).min
KINDS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Norms:
    """Norms of the rows as they are, as the screen rounds them, and of what the rounding took away; all `[rows]`."""

    whole: Tensor
    rounded: Tensor
    lost: Tensor

    def of(self, rows: Tensor) -> Norms:
        """Only these rows'."""
        return Norms(self.whole[rows], self.rounded[rows], self.lost[rows])


@dataclass(frozen=True)
class Slack:
    """How far a screened score of each of some queries can be from the true one: `fixed + share * |score|`."""

    fixed: Tensor
    share: float

    def above(self, score: Tensor) -> Tensor:
        """At most this much is the true score of one that is screened as `score`."""
        return score + self.fixed + self.share * score.abs()

    def below(self, score: Tensor) -> Tensor:
        """At least this much is it."""
        return score - self.fixed - self.share * score.abs()

    def floor(self, score: Tensor) -> Tensor:
        """What is screened lower than this is truly lower than what is screened as `score`; LOWEST below nothing."""
        score = score.clamp(min=LOWEST / 2)
        return (score - 2.02 * (self.fixed + self.share * score.abs())).clamp(min=LOWEST)

    def of(self, queries: Tensor) -> Slack:
        """Only these queries'."""
        return Slack(self.fixed[queries], self.share)


@dataclass(frozen=True)
class Screen:
    """The rounding of one side's rows times the rounding of the other's, both scaled by powers of two.

    kind: a key of `KINDS`, the type that operands and tiles have; sums are kept in float32 at least.
    """

    kind: str
    device: torch.device
    image_scale: float
    text_scale: float

    @property
    def dtype(self) -> torch.dtype:
        return KINDS[self.kind]

    @property
    def rounding(self) -> float:
        """The largest relative error of rounding a sum to this type; that of float32 is part of the sum's bound."""
        return 0.0 if self.kind == "float32" else torch.finfo(self.dtype).eps / 2

    @property
    def scale(self) -> float:
        """A true score times this is what a tile shows."""
        return self.image_scale * self.text_scale

    def product(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """All dot products `[q, p]` of the rows of two sides, of this type, summed as the bound has it."""
        with full_sums():
            return torch.mm(left, right.T, out=out)

    def norms(self, rows: Tensor, scale: float) -> Norms:
        """Of scaled rows `[rows, d]`."""
        found = []
        for part in rows.split(ROWS):
            part = part.to(self.device).float() * scale
            rounded = part.to(self.dtype).float()
            found.append(torch.stack([part.norm(dim=1), rounded.norm(dim=1), (part - rounded).norm(dim=1)]))
        return Norms(*torch.cat(found, 1))

    def slack(self, queries: Norms, pool: Norms, width: int) -> Slack:
        """The bound for each query against every row of a pool of rows `width` wide.

        |x.y - s| <= |x - x'| |y| + |x'| |y - y'| + g |x'| |y'| + h |s|, with x', y' the rounded rows, g the bound of a
        float32 sum in any order (Higham 2002, section 3.1) and h the rounding of the sum to the tile's type.
        """
        g = width * SINGLE / (1 - width * SINGLE)
        fixed = queries.lost * pool.whole.max() + queries.rounded * (pool.lost.max() + g * pool.rounded.max())
        return Slack(1.001 * fixed + SMALLEST, self.rounding)


@contextmanager
def full_sums() -> Iterator[None]:
    """Products inside are summed in float32 of unrounded operands; CUDA is free to do with less where it is told so."""
    cuda = torch.backends.cuda.matmul
    halves = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction",
              "allow_fp16_accumulation")  # fmt: skip
    before, single = [getattr(cuda, name) for name in halves], torch.get_float32_matmul_precision()
    try:
        for name in halves:
            setattr(cuda, name, False)
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for name, value in zip(halves, before, strict=True):
            setattr(cuda, name, value)
        torch.set_float32_matmul_precision(single)


def scaling_power(rows: Tensor, what: str) -> float:
    """The power of two that brings the longest row to a length of 1/2 to 1.

    Raises:
        DataError: a row is too long for float32 arithmetic.
    """
    longest = max((float(part.float().norm(dim=1).max()) for part in rows.split(ROWS)), default=0.0)
    if longest > LARGEST:
        raise DataError(f"{what}: a row is {longest:.1g} long, too long for float32 products; normalise the embeddings")
    return 2.0 ** -torch.tensor(longest).frexp().exponent.item() if longest > 1 / LARGEST else 1.0


def choose_screen(
    images: Tensor, texts: Tensor, kind: str, device: torch.device, scales: tuple[float, float] | None = None
) -> Screen:
    """The screen for these embeddings; "auto" takes half precision where it is twice as fast as float32 here.

    Args:
        scales: of images and texts, where they are known: all rows are looked at to find them.

    Raises:
        ConfigError: this machine's half-precision sums are worse than their bound.
    """
    scales = scales or (scaling_power(images, "the images"), scaling_power(texts, "the texts"))
    single = Screen("float32", device, *scales)
    if kind == "auto":
        half = Screen("float16", device, *scales)
        faster = 2 * _seconds(half, texts.shape[1], 256) < _seconds(single, texts.shape[1], 256)
        return half if faster and _holds(half, images, texts) else single
    chosen = Screen(kind, device, *scales)
    if not _holds(chosen, images, texts):
        raise ConfigError(f"--screen {kind}: products here are less exact than their type promises; use float32")
    return chosen


def _seconds(screen: Screen, width: int, size: int) -> float:
    """The best of three products of `size` rows; the first one also loads kernels."""
    left = torch.ones(size, width, device=screen.device, dtype=screen.dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float(screen.product(left, left)[0, 0])
        best = min(best, time.perf_counter() - start)
    return best


def _holds(screen: Screen, images: Tensor, texts: Tensor) -> bool:
    """Whether the bound holds for rows from all over."""
    left, right = (rows[:: max(1, len(rows) // 256)].to(screen.device).float() for rows in (images, texts))
    rounded = (left * screen.image_scale).to(screen.dtype), (right * screen.text_scale).to(screen.dtype)
    shown = screen.product(*rounded).double()
    true = left.double() @ right.double().T * screen.scale
    slack = screen.slack(
        screen.norms(left, screen.image_scale), screen.norms(right, screen.text_scale), left.shape[1]
    )
    doubt = slack.fixed[:, None] + slack.share * shown.abs()
    return bool(((shown - true).abs() <= doubt).all())
