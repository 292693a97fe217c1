"""LAPS's similarity (Fu et al., CVPR 2024): the patches that matter to a caption against its words.

Which patches are kept differs from text to text, so as published every pair has vectors of its own: kept patches,
aggregated ones, a fused one. Only their angles to the words are asked for, and those follow from what images and
texts have by themselves: an aggregated vector is `P S`, a few weights of the patches `S`, so that its products with the
words are `P (S W')` and its square length is the diagonal of `P (S S') P'`. No vector of a pair is ever made.

Which patches matter is decided in float64, so that neither tiles nor ranks nor the kind of processor move a patch over
the threshold by rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.parts.layers import top_mask

SLOPE, SHORTEST = 0.1, 1e-12


@dataclass(frozen=True)
class Rule:
    """How images are slimmed.

    Attributes:
        keep: share of the patches that a text keeps, rounded up.
        zero_row: nothing being dropped, stand a row of zeros in for the fused patch, as published; or leave it out.
        bend: flatten negative cosines.
        both_ways: rows look for words too.
    """

    keep: float
    zero_row: bool = False
    bend: bool = True
    both_ways: bool = True

    def kept(self, patches: int) -> int:
        """How many of so many patches are kept."""
        return math.ceil(patches * self.keep)

    def fuses(self, patches: int) -> bool:
        """Whether anything is dropped, to be fused."""
        return self.kept(patches) < patches


@dataclass(frozen=True)
class Pictures:
    """What images bring to the comparison.

    Attributes:
        patches: `[n, s, c]` spatial tokens as they are, in float32 or wider.
        logits: `[n, k, s]`, whose softmax over the patches that are kept makes the k aggregated ones.
        whole: `[n, c]` unit vectors that stand for the whole images ([CLS]), or None.
        bias, sway: what each patch has of significance before any text is asked, `[n, s]` float64 or None, and the
            weight of what the image and the text say beside it.
    """

    patches: Tensor
    logits: Tensor
    whole: Tensor | None
    bias: Tensor | None = None
    sway: float = 1.0

    def slice(self, at: slice) -> Pictures:
        """Some of the images, viewed."""
        whole = None if self.whole is None else self.whole[at]
        bias = None if self.bias is None else self.bias[at]
        return Pictures(self.patches[at], self.logits[at], whole, bias, self.sway)


@dataclass(frozen=True)
class Captions:
    """What texts bring to the comparison, ascending in length.

    Attributes:
        words: `[m, w, c]` unit vectors; rows behind a text's end are zero.
        lengths: `[m]` (host), how many words each has.
        queries: `[m, c]` float64, the directions of the texts' means.
    """

    words: Tensor
    lengths: Tensor
    queries: Tensor

    def slice(self, at: slice) -> Captions:
        """Some of the texts, viewed, no wider than the longest."""
        lengths = self.lengths[at]
        return Captions(self.words[at, : int(lengths[-1])], lengths, self.queries[at])


@dataclass(frozen=True)
class Gradients:
    """Where the tiles of a backward pass add up what they find; `gram` is that of the products of patches."""

    patches: Tensor
    logits: Tensor
    whole: Tensor | None
    words: Tensor
    gram: Tensor

    @classmethod
    def zeros(cls, patches: Tensor, logits: Tensor, whole: Tensor | None, words: Tensor) -> Gradients:
        gram = patches.new_zeros(len(patches), patches.shape[1], patches.shape[1])
        of_whole = None if whole is None else torch.zeros_like(whole)
        return cls(torch.zeros_like(patches), torch.zeros_like(logits), of_whole, torch.zeros_like(words), gram)

    def of(self, rows: slice, columns: slice, captions: Captions) -> Gradients:
        """The part of a tile, viewed."""
        whole = None if self.whole is None else self.whole[rows]
        words = self.words[columns, : captions.words.shape[1]]
        return Gradients(self.patches[rows], self.logits[rows], whole, words, self.gram[rows])

    def through_gram(self, patches: Tensor) -> None:
        """Add to the patches what their products received: once for an image, whatever the number of texts."""
        self.patches.baddbmm_(self.gram + self.gram.transpose(1, 2), patches)


@dataclass(frozen=True)
class Shapes:
    """Some images of a tile, and what all texts ask of them.

    Attributes:
        gram: `[i, s, s]` products of an image's patches with each other.
        directions: `[i, s, c]` float64, the patches at unit length.
        significance: `[i, s]` float64, what the image itself says of each patch.
    """

    pictures: Pictures
    gram: Tensor
    directions: Tensor
    significance: Tensor

    @classmethod
    def of(cls, pictures: Pictures) -> Shapes:
        patches = pictures.patches
        exact = patches.double()
        directions, centre = unit(exact), unit(exact.mean(1))
        alone = (directions @ centre[..., None]).squeeze(2)
        return cls(pictures, patches @ patches.transpose(1, 2), directions, alone)

    def scores(self, queries: Tensor) -> Tensor:
        """`[i, t, s]` float64: how much each patch matters to each text."""
        both = self.asked(queries) + self.significance[:, None]
        bias, sway = self.pictures.bias, self.pictures.sway
        return both if bias is None else torch.add(bias[:, None], both, alpha=sway)

    def asked(self, queries: Tensor) -> Tensor:
        """`[i, t, s]` float64, what the texts of `queries [t, c]` say of each patch."""
        return queries @ self.directions.transpose(1, 2)


def mixing(logits: Tensor, scores: Tensor, kept: Tensor, fused: bool) -> Tensor:
    """Weights `[i, t, k, s]` of patches in the k aggregated ones; `fused` adds a last row, of the fused one.

    Each aggregated patch is a softmax of `logits [i, k, s]` over the patches that `kept [i, t, s]` keeps, the fused one
    a softmax of `scores [i, t, s]` over the others.
    """
    closed = torch.zeros_like(scores).masked_fill_(~kept, -torch.inf)[:, :, None]
    if not fused:
        return (logits[:, None] + closed).softmax(-1)
    blank = logits.new_empty(*scores.shape[:2], logits.shape[1] + 1, scores.shape[2])
    torch.add(logits[:, None], closed, out=blank[:, :, :-1])
    blank[:, :, -1] = scores.masked_fill(kept, -torch.inf)
    return blank.softmax(-1)


class Tile:
    """Some images against some texts: i images, t texts of at most w words, r weighted sums of s patches.

    Attributes:
        kept: `[i, t, s]` bool.
        weights: `[i, t, r, s]`, of the aggregated patches and, in the last row, of the fused one.
        cosines: `[i, t, h, w]` of the h rows that meet the words: the whole image, weighted sums, a row of zeros.
    """

    def __init__(self, shapes: Shapes, captions: Captions, rule: Rule) -> None:
        self.shapes, self.captions, self.rule = shapes, captions, rule
        pictures = shapes.pictures
        patches = pictures.patches
        scores = shapes.scores(captions.queries)
        self.kept = top_mask(scores, rule.kept(scores.shape[-1]))
        fused = rule.fuses(scores.shape[-1])
        self.weights = mixing(pictures.logits, scores.to(patches.dtype), self.kept, fused)
        flat = patches @ captions.words.flatten(0, 1).T
        # `[i, t, s, w]`: products of patches with words, which stay in place where the texts lie side by side.
        self.products = flat.unflatten(2, captions.words.shape[:2]).transpose(1, 2)
        self.pulled = (self.weights.flatten(1, 2) @ shapes.gram).view_as(self.weights)
        self.square = torch.linalg.vecdot(self.weights, self.pulled)
        self.length = self.square.clamp(min=SHORTEST**2).sqrt_()
        rows = [(self.weights @ self.products) / self.length[..., None]]
        self.first = 0 if pictures.whole is None else 1
        if pictures.whole is not None:
            rows.insert(0, _against(pictures.whole, captions.words)[:, :, None])
        if rule.zero_row and not fused:
            rows.append(torch.zeros_like(rows[0][:, :, :1]))
        self.cosines = torch.cat(rows, 2)
        counts = captions.lengths.to(patches.device, non_blocking=True)
        self.there = torch.arange(captions.words.shape[1], device=patches.device) < counts[:, None]

    def similarities(self, cosines: Tensor) -> Tensor:
        """`[i, t]` of the tile's `cosines`."""
        return match_both_ways(cosines, self.there, bend=self.rule.bend, both_ways=self.rule.both_ways)

    def backward(self, grad: Tensor, sums: Gradients) -> None:
        """Add the gradients of `grad [i, t]` to `sums`."""
        pictures, captions = self.shapes.pictures, self.captions
        d_cosines = self._d_cosines(grad)
        if pictures.whole is not None and sums.whole is not None:
            d_whole = d_cosines[:, :, 0].flatten(1)
            sums.whole.add_(d_whole @ captions.words.flatten(0, 1))
            sums.words.add_((d_whole.T @ pictures.whole).view_as(captions.words))
        weighted = slice(self.first, self.first + self.weights.shape[2])
        d_cosines, cosines = d_cosines[:, :, weighted], self.cosines[:, :, weighted]
        d_rows = d_cosines / self.length[..., None]
        d_square = torch.linalg.vecdot(d_cosines, cosines) / (-2 * self.square)
        d_square.masked_fill_(self.square < SHORTEST**2, 0)  # where the length is clamped
        self._add_weights(d_rows, d_square, sums.logits)
        scaled = self.weights * d_square[..., None]
        sums.gram.baddbmm_(scaled.flatten(1, 2).transpose(1, 2), self.weights.flatten(1, 2))
        d_products = (self.weights.transpose(2, 3) @ d_rows).transpose(1, 2).flatten(2)
        sums.patches.add_(d_products @ captions.words.flatten(0, 1))
        flat = d_products.flatten(0, 1).T @ pictures.patches.flatten(0, 1)
        sums.words.add_(flat.view_as(captions.words))

    def _d_cosines(self, grad: Tensor) -> Tensor:
        """`[i, t, h, w]`: what `grad [i, t]` says of the cosines."""
        with torch.enable_grad():
            cosines = self.cosines.requires_grad_()
            (found,) = torch.autograd.grad(self.similarities(cosines), cosines, grad)
        self.cosines.requires_grad_(False)
        return found

    def _add_weights(self, d_rows: Tensor, d_square: Tensor, d_logits: Tensor) -> None:
        """Through the softmax of the aggregated rows.

        A cosine does not change with the length of its row, so the softmax's own sum has no gradient and is left out.
        """
        aggregated = d_logits.shape[1]
        d_weights = d_rows[:, :, :aggregated] @ self.products.transpose(2, 3)
        d_weights.addcmul_(self.pulled[:, :, :aggregated], d_square[:, :, :aggregated, None], value=2)
        d_logits.add_(d_weights.mul_(self.weights[:, :, :aggregated]).sum(1))


def match_both_ways(
    cosines: Tensor, words: Tensor, rows: Tensor | None = None, bend: bool = True, both_ways: bool = True
) -> Tensor:
    """Each word's best row, averaged over words; and each row's best word, averaged over rows: `[...]`, their sum.

    Args:
        cosines: `[..., h, w]`.
        words: `[..., w]` bool, which words there are.
        rows: `[..., h]` bool, which rows there are; all by default.
        bend: flatten negative cosines first.
        both_ways: False leaves out the second.
    """
    bent = F.leaky_relu(cosines, SLOPE) if bend else cosines
    among = bent if rows is None else bent.masked_fill(~rows[..., None], -torch.inf)
    best = among.max(-2).values
    shares = words.to(best.dtype) / words.sum(-1, keepdim=True)
    found = torch.linalg.vecdot(best, shares.expand_as(best))
    if not both_ways:
        return found
    of_rows = bent.masked_fill(~words[..., None, :], -torch.inf).max(-1).values
    return found + (of_rows.mean(-1) if rows is None else (of_rows * rows).sum(-1) / rows.sum(-1))


def _against(whole: Tensor, words: Tensor) -> Tensor:
    """`[i, t, w]` products of vectors `[i, c]` with words `[t, w, c]`."""
    return (whole @ words.flatten(0, 1).T).unflatten(1, words.shape[:2])


def unit(x: Tensor) -> Tensor:
    """`x` at unit length along its last axis; vectors next to nothing stay short."""
    return F.normalize(x, dim=-1, eps=SHORTEST)
