"""ISDa: how far the relations between a pair's objects as its words see them are from those its regions see.

Internal structure distance with annotation (Ren et al., ACL 2021); the pooling over phrases is this project's, because
the authors published none. Lower is better.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-12


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
