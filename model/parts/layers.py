"""Layers and functions that several systems share: norms, padding, GRUs, dropout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from data.batches.batch import Ragged, ranges


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 where it is narrower; norms, statistics and sums of squares need it."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def l2norm(x: Tensor, eps: float = 0.0, dim: int = -1) -> Tensor:
    """`x / (|x| + eps)` along `dim`, in float32 at least; with `eps=0` a vector of zeros stays one."""
    x = upcast(x)
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True) + eps
    return x / norm.masked_fill(norm == 0, 1.0)


def top_mask(scores: Tensor, count: int) -> Tensor:
    """Which of `scores [..., s]` are among the `count` highest, bool; of equal ones those of lower index."""
    least = scores.kthvalue(scores.shape[-1] - count + 1, dim=-1, keepdim=True).values
    above, level = scores > least, scores == least
    room = count - above.sum(-1, keepdim=True)
    return above | (level & (level.cumsum(-1) <= room))


def pad_ragged(ragged: Ragged) -> tuple[Tensor, Tensor | None]:
    """`(values [n, w, ...], mask [n, w])`, zero where the mask is False; a view and None where all lengths are equal.

    Unlike `Ragged.padded` it takes its positions from the host and never waits for the device.
    """
    n, width = len(ragged), int(ragged.lengths.max())
    shape = (n, width, *ragged.values.shape[1:])
    if int(ragged.lengths.min()) == width:
        return ragged.values.view(shape), None
    device = ragged.values.device
    rows = _places(ragged.lengths, width).to(device, non_blocking=True)
    blank = ragged.values.new_zeros(n * width, *ragged.values.shape[1:])
    mask = (torch.arange(width) < ragged.lengths[:, None]).to(device, non_blocking=True)
    return blank.index_copy(0, rows, ragged.values).view(shape), mask


def pack_padded(rectangle: Tensor, offsets: Tensor) -> Ragged:
    """The real rows of a rectangle `[n, w, ...]` one after the other; the way back from `pad_ragged`.

    `offsets [n + 1]` (host) are those of the ragged rows it came from.
    """
    n, width = rectangle.shape[:2]
    flat, lengths = rectangle.flatten(0, 1), offsets.diff()
    if int(offsets[-1]) == n * width:
        return Ragged(flat, offsets)
    rows = _places(lengths, width).to(flat.device, non_blocking=True)
    return Ragged(flat.index_select(0, rows), offsets)


def _places(lengths: Tensor, width: int) -> Tensor:
    """Where the real rows lie in a flattened rectangle of this width, `[total]` (host)."""
    return ranges(torch.arange(len(lengths)) * width, lengths)


def run_gru(gru: nn.GRU, ragged: Ragged) -> tuple[Ragged, Tensor]:
    """Run a `batch_first` GRU over sequences of their own lengths (at least 1) from a state of zeros.

    Returns:
        The top layer's outputs, packed `[total, directions * d]`, and its last states `[n, directions * d]`: forward
        that of the last position, then backward that of the first.
    """
    assert gru.batch_first
    directions = 2 if gru.bidirectional else 1
    if int(ragged.lengths.min()) == int(ragged.lengths.max()):
        outputs, last = gru(pad_ragged(ragged)[0])
        return pack_padded(outputs, ragged.offsets), last[-directions:].transpose(0, 1).flatten(1)
    device = ragged.values.device
    order = torch.argsort(ragged.lengths, descending=True, stable=True)
    rows, sizes = _by_step(ragged, order)
    states, last = gru(PackedSequence(ragged.values.index_select(0, rows.to(device, non_blocking=True)), sizes))
    outputs = states.data.index_select(0, torch.argsort(rows).to(device, non_blocking=True))
    last = last[-directions:].index_select(1, torch.argsort(order).to(device, non_blocking=True))
    return Ragged(outputs, ragged.offsets), last.transpose(0, 1).flatten(1)


def _by_step(ragged: Ragged, order: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of all first positions in `order` (longest first), of all second ones ...; and how many each step has."""
    steps = torch.arange(int(ragged.lengths.max()))[:, None]
    alive = steps < ragged.lengths[order]
    return (ragged.offsets[:-1][order] + steps)[alive], alive.sum(1)


class BatchNorm(nn.Module):
    """Normalise each channel over all rows of all ranks; running statistics stand in outside of training.

    `total` sums a tensor over ranks, with gradient; alone it is the identity. Rows, not ranks, are the unit: ranks
    with different numbers of rows give the result of one rank with all of them.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    """Kept because published checkpoints have it; nothing here reads it."""

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.total: Callable[[Tensor], Tensor] = _alone
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, width]` in float32 at least."""
        x = upcast(x)
        if not self.training:
            return self._scaled(x - self.running_mean, self.running_var)
        # One exchange for the sums and the number of rows.
        sums = self.total(torch.cat([x.sum(0), x.new_full((1,), len(x))]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean
        variance = self.total(centred.square().sum(0)) / count
        self._remember(mean.detach(), variance.detach(), count)
        return self._scaled(centred, variance)

    def _scaled(self, centred: Tensor, variance: Tensor) -> Tensor:
        return torch.addcmul(self.bias, centred, self.weight * torch.rsqrt(variance + self.eps))

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics; a single row says nothing of how rows differ and moves nothing."""
        self.num_batches_tracked += 1
        share = self.momentum * (count > 1)
        self.running_mean.lerp_(mean.to(self.running_mean), share.to(self.running_mean))
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var), share.to(self.running_var))


def _alone(x: Tensor) -> Tensor:
    return x


def keyed_dropout(x: Tensor, rate: float, keys: Tensor, stream: int | Tensor) -> Tensor:
    """Dropout of `x [k, ...]` whose mask depends on (`keys[k]`, `stream`, the place in the item) and nothing else.

    `stream` tells apart the draws of one key: a number for all items, or one for each, `[k]`.
    """
    if rate == 0:
        return x
    return x.masked_fill(keyed_dropout_mask(x.shape, rate, keys, stream, x.device), 0.0) / (1 - rate)


def keyed_dropout_mask(
    shape: torch.Size, rate: float, keys: Tensor, stream: int | Tensor, device: torch.device | str = "cpu"
) -> Tensor:
    """What falls out of a tensor of this shape `[k, ...]`: bool, True with probability `rate`.

    An element's fate does not change when the item grows along its first axis: places are counted in row order.
    """
    seeds = _mixed(keys + torch.as_tensor(stream) * _GOLDEN).to(device, non_blocking=True)
    places = torch.arange(1, shape[1:].numel() + 1, device=device) * _GOLDEN
    draws = _mixed(seeds[:, None] + places)
    return (((draws >> 40) & 0xFFFFFF) < round(rate * 2**24)).view(shape)


def _signed(number: int) -> int:
    return number - (number >> 63 << 64)


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014) on int64, which wraps around; overwrites `x`."""
    x.bitwise_xor_((x >> 30) & 0x3FFFFFFFF).mul_(_FIRST)
    x.bitwise_xor_((x >> 27) & 0x1FFFFFFFFF).mul_(_SECOND)
    return x.bitwise_xor_((x >> 31) & 0x1FFFFFFFF)
