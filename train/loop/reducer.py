"""The gradient reducer: averages over ranks, in fixed buckets, while backward still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from train.distributed.comm import Comm, Wait

FP16_ROOM = 1024.0
"""What true gradients are multiplied by before they travel in half precision, on one rank."""
BUCKET_BYTES = 32 << 20
"""Gradients of one collective: large enough that its start costs little, small enough that backward hides it."""


class GradientReducer:
    """Sends gradients in buckets, each as soon as it is full, so that communication hides behind backward.

    Which gradients share a bucket, and the order in which buckets are sent, follow from the parameters alone. Sums of
    three and more ranks depend on it: so they are the same in every repetition.

    Args:
        compression: "fp16" halves what travels. True gradients from 6e-11 (times the next power of two of the ranks)
            to 64 survive it; larger ones become infinite, and the update is left out.
        loss_scale: what the loss was multiplied by; asked once an update, where gradients travel in fp16.
    """

    def __init__(
        self,
        comm: Comm,
        named: Iterable[tuple[str, nn.Parameter]],
        compression: str = "none",
        loss_scale: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._comm, self._half, self._loss_scale = comm, compression == "fp16", loss_scale
        self._factor = 1.0
        self._armed = False
        trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self._buckets = [_Bucket(part) for part in _parts(trained)] if comm.size > 1 else []
        self._sent: list[tuple[_Bucket, Wait, Tensor]] = []
        for bucket in self._buckets:
            for name, parameter in bucket.named:
                parameter.register_post_accumulate_grad_hook(partial(self._note, bucket, name))

    def arm(self) -> None:
        """The next backward is the update's last: its gradients are the sums to send."""
        self._armed = True
        if self._half and self._buckets:
            # Powers of two, so that only the exponent changes; the sum over all ranks has to fit, not only the mean.
            self._factor = FP16_ROOM / 2 ** (self._comm.size - 1).bit_length() / self._loss_scale()

    def _note(self, bucket: _Bucket, name: str, _: Tensor) -> None:
        """Send every bucket whose turn it is: all ranks send them in the same order."""
        if not self._armed:
            return
        bucket.missing.discard(name)
        while len(self._sent) < len(self._buckets) and not self._buckets[len(self._sent)].missing:
            whole = self._buckets[len(self._sent)]
            flat = whole.flatten(self._factor if self._half else None)
            self._sent.append((whole, self._comm.mean_async_(flat, whole.name), flat))

    def finish(self) -> None:
        """Wait for all of them; gradients are views of the buckets then.

        Raises:
            RuntimeError: a trainable parameter had no gradient on this rank, so ranks would wait for each other.
        """
        self._armed = False
        silent = [name for bucket in reversed(self._buckets) for name, _ in reversed(bucket.named)
                  if name in bucket.missing]
        if silent:
            raise RuntimeError(f"no gradient for {', '.join(silent[:3])}; a matcher freezes what no loss reaches")
        for bucket, wait, flat in self._sent:
            wait()
            bucket.take(flat.float().div_(self._factor) if self._half else flat)
        self._sent.clear()


class _Bucket:
    """Gradients that are sent as one tensor. `missing`: the names of those that have not come yet."""

    def __init__(self, named: list[tuple[str, nn.Parameter]]) -> None:
        self.named = named
        self.name = f"gradient.{named[0][0]}"
        self.missing = {name for name, _ in named}

    def flatten(self, factor: float | None) -> Tensor:
        """All gradients, one after the other; with a factor multiplied by it, in half precision."""
        rows = [grad.reshape(-1) for grad in self._grads()]
        return torch.cat(rows if factor is None else [row.mul(factor).half() for row in rows])

    def take(self, flat: Tensor) -> None:
        """Make the averages in `flat` the gradients."""
        parts = flat.split([parameter.numel() for _, parameter in self.named])
        for (_, parameter), part in zip(self.named, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self.missing = {name for name, _ in self.named}

    def _grads(self) -> Iterator[Tensor]:
        for _, parameter in self.named:
            assert parameter.grad is not None
            yield parameter.grad


def _parts(named: list[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Parameters of one type in parts of at most `BUCKET_BYTES`, the last first, as backward makes their gradients."""
    part: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in reversed(named):
        bytes_of = parameter.numel() * parameter.element_size()
        if part and (size + bytes_of > BUCKET_BYTES or parameter.dtype != part[-1][1].dtype):
            yield part
            part, size = [], 0
        part.append((name, parameter))
        size += bytes_of
    if part:
        yield part
