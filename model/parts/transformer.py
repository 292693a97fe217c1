"""A BERT encoder (post-LN, Devlin et al. 2019) on packed tokens, without padding.

Sequences are packed in ascending order of length, so that those of equal length lie side by side: attention then runs
over views of the packed tensor, a rectangle for each length, exact and without a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batches.batch import offsets_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}
EPS = 1e-12


@dataclass(frozen=True)
class Packing:
    """Ascending `lengths [n]` (host) of the sequences that lie packed in `[total, d]`."""

    lengths: Tensor

    @cached_property
    def offsets(self) -> Tensor:
        return offsets_of(self.lengths)

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """(length, how many sequences) of each stretch of equal lengths."""
        length, count = torch.unique_consecutive(self.lengths, return_counts=True)
        return list(zip(length.tolist(), count.tolist(), strict=True))

    def split(self, tokens: Tensor) -> Iterator[Tensor]:
        """Views `[count, length, ...]` of the packed `tokens [total, ...]`, one for each run."""
        stretches = tokens.split([length * count for length, count in self.runs])
        for stretch, (length, count) in zip(stretches, self.runs, strict=True):
            yield stretch.view(count, length, *tokens.shape[1:])


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each followed by dropout, residual sum and LayerNorm."""

    def __init__(
        self, width: int, heads: int, inner: int, activation: str, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.activation = ACTIVATIONS[activation]
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.context = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, EPS)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, EPS)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor, *parts: nn.Linear) -> Tensor:
        """`[total, len(parts), heads, d]`: several projections of `x [total, width]` in one product."""
        weight = torch.cat([part.weight for part in parts])
        bias = torch.cat([part.bias for part in parts])
        return F.linear(x, weight, bias).view(len(x), len(parts), self.heads, -1)

    def qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values of `x [total, width]`: `[total, 3, heads, d]`."""
        return self.project(x, self.query, self.key, self.value)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention: `x` the layer's input, `mixed` the attended values, both `[total, width]`."""
        x = self.attention_norm(x + self.dropout(self.context(mixed)))
        return self.norm(x + self.dropout(self.contract(self.activation(self.expand(x)))))

    def forward(self, x: Tensor, packing: Packing, qkv: Tensor | None = None) -> Tensor:
        """`[total, width]`; `qkv` where it is known already."""
        qkv = self.qkv(x) if qkv is None else qkv
        return self.after(x, attend(qkv, packing, self.attention_dropout if self.training else 0.0))

    def first(self, x: Tensor, packing: Packing) -> Tensor:
        """The layer's output at the first token of each sequence only, `[n, width]`: a sixth of the work."""
        x0 = x.index_select(0, packing.offsets[:-1].to(x.device, non_blocking=True))
        query = self.project(x0, self.query)
        kv = self.project(x, self.key, self.value)
        return self.after(x0, attend_first(query, kv, packing, self.attention_dropout if self.training else 0.0))


class Encoder(nn.Module):
    """A stack of layers."""

    def __init__(self, depth: int, make_layer: Callable[[], EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make_layer() for _ in range(depth))

    @property
    def bottom(self) -> EncoderLayer:
        """The first layer."""
        return self._layer(0)

    @property
    def top(self) -> EncoderLayer:
        """The last layer."""
        return self._layer(-1)

    def _layer(self, number: int) -> EncoderLayer:
        layer = self.layers[number]
        assert isinstance(layer, EncoderLayer)
        return layer

    def states(self, x: Tensor, packing: Packing, qkv: Tensor | None = None) -> Iterator[Tensor]:
        """The output of each layer in turn, `[total, width]`; `qkv` is that of the first layer if known."""
        for layer in self.layers:
            x = layer(x, packing, qkv)
            qkv = None
            yield x

    def below(self, x: Tensor, packing: Packing, qkv: Tensor | None = None) -> Tensor:
        """What the last layer is given, `[total, width]`."""
        for layer in list(self.layers)[:-1]:
            x = layer(x, packing, qkv)
            qkv = None
        return x


def attend(qkv: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Scaled dot-product attention inside each sequence: `[total, 3, heads, d]` -> `[total, heads * d]`."""
    if qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16):
        return attend_jagged(qkv, packing, dropout)
    parts = []
    for part in packing.split(qkv):
        query, key, value = part.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).flatten(1)


def attend_jagged(qkv: Tensor, packing: Packing, dropout: float) -> Tensor:
    """The same through one variable-length kernel, where the device has one."""
    offsets = packing.offsets.to(qkv.device, non_blocking=True)
    longest, shortest = int(packing.lengths[-1]), int(packing.lengths[0])
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(
            part.contiguous(), offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for part in qkv.unbind(1)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return mixed.transpose(1, 2).values().flatten(1)


def attend_first(query: Tensor, kv: Tensor, packing: Packing, dropout: float) -> Tensor:
    """One query a sequence: `query [n, 1, heads, d]`, `kv [total, 2, heads, d]` -> `[n, heads * d]`."""
    parts = []
    counts = [count for _, count in packing.runs]
    for q, part in zip(query.split(counts), packing.split(kv), strict=True):
        key, value = part.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), key, value, dropout_p=dropout)
        parts.append(mixed.flatten(1))
    return torch.cat(parts)
