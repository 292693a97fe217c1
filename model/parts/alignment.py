"""Late similarities of all patches with all words, without slimming: the baselines of LAPS.

Each is a function of a tile: products of unit tokens `[i, t, l, w]` and of an image's tokens with each other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.parts.layers import l2norm
from model.parts.slimming import SLOPE

TILE = {"cpu": 2**20, "cuda": 2**26}
"""Products in a tile: 4 MiB of a processor's cache, or 256 MiB of a GPU."""
EPS = 1e-8
SMOOTH_WORDS, SMOOTH_PATCHES = 9.0, 4.0
"""How sharply words attend to patches, and patches to words."""

Similarity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(products `[i, t, l, w]`, gram of tokens `[i, l, l]`, gram of words `[t, w, w]`, real words `[t, w]`) -> `[i, t]`."""


def max_mean(products: Tensor, tokens: Tensor, words: Tensor, there: Tensor) -> Tensor:
    """Half of: each word's best token, averaged; and each token's best word, averaged."""
    del tokens, words
    bent = F.leaky_relu(products, SLOPE)
    of_tokens = bent.masked_fill(~there[:, None], -torch.inf).amax(3).mean(2)
    return (mean_over(bent.amax(2), there) + of_tokens) / 2


def scan_t2i(products: Tensor, tokens: Tensor, words: Tensor, there: Tensor) -> Tensor:
    """Words attend to tokens (Lee et al., ECCV 2018); how near each word is to what it found, averaged."""
    del words
    bent = F.leaky_relu(products, SLOPE).masked_fill(~there[:, None], 0)
    shares = (SMOOTH_WORDS * over_queries(bent, 3)).softmax(2).transpose(2, 3)
    return mean_over(nearness(shares, products.transpose(2, 3), tokens[:, None]), there)


def scan_i2t(products: Tensor, tokens: Tensor, words: Tensor, there: Tensor) -> Tensor:
    """Tokens attend to words; how near each token is to what it found, averaged."""
    del tokens
    closed = torch.zeros_like(there, dtype=products.dtype).masked_fill(~there, -torch.inf)
    shares = (SMOOTH_PATCHES * over_queries(F.leaky_relu(products, SLOPE), 2) + closed[:, None]).softmax(3)
    return nearness(shares, products, words).mean(2)


def scan_all(products: Tensor, tokens: Tensor, words: Tensor, there: Tensor) -> Tensor:
    """The mean of both."""
    return (scan_t2i(products, tokens, words, there) + scan_i2t(products, tokens, words, there)) / 2


SIMILARITIES: dict[str, Similarity] = {
    "max_mean": max_mean, "scan_t2i": scan_t2i, "scan_i2t": scan_i2t, "scan_all": scan_all,
}  # fmt: skip


def over_queries(affinities: Tensor, dim: int) -> Tensor:
    """Affinities at unit length over the axis of the queries."""
    return affinities / (torch.linalg.vector_norm(affinities, dim=dim, keepdim=True) + EPS)


def nearness(shares: Tensor, products: Tensor, gram: Tensor) -> Tensor:
    """Cosine `[..., q]` of each unit query to its mix of context rows.

    Args:
        shares: `[..., q, c]` of the context rows in the mix.
        products: `[..., q, c]` of queries and context rows.
        gram: `[..., c, c]` of context rows with each other, of which no mix is ever made.
    """
    square = torch.linalg.vecdot(shares @ gram, shares)
    return torch.linalg.vecdot(shares, products) / square.clamp(min=EPS**2).sqrt()


def mean_over(values: Tensor, there: Tensor) -> Tensor:
    """Mean of `[i, t, w]` over the real words."""
    return (values * there).sum(2) / there.sum(1)


def aligned(similarity: Similarity, tokens: Tensor, words: Tensor, there: Tensor) -> Tensor:
    """Similarities `[n, m]` of tokens `[n, l, c]` and words `[m, w, c]`, of which only the directions count.

    Words are zero where not `there [m, w]`. Computed tile by tile, and tile by tile again for the gradient.
    """
    tokens, words = l2norm(tokens), l2norm(words)
    room = TILE[tokens.device.type] // (tokens.shape[1] * words.shape[1])
    width = max(1, min(room, len(words)))
    blocks = [tokens.split(max(1, room // width)), words.split(width), there.split(width)]

    def tile(some: Tensor, few: Tensor, real: Tensor) -> Tensor:
        flat = some @ few.flatten(0, 1).T
        products = flat.unflatten(2, few.shape[:2]).transpose(1, 2)
        return similarity(products, some @ some.transpose(1, 2), few @ few.transpose(1, 2), real)

    rows = [
        torch.cat([checkpoint(tile, some, few, real, use_reentrant=False, preserve_rng_state=False)
                   for few, real in zip(*blocks[1:], strict=True)], 1)
        for some in blocks[0]
    ]  # fmt: skip
    return torch.cat(rows)
