"""The gradient reducer: averages over ranks while backward still runs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor, nn

from train.distributed.comm import Comm, Wait


class GradientReducer:
    """Sends each gradient as soon as it is whole, so that talking hides behind backward.

    Args:
        compression: "fp16" halves what travels; averages beyond 65,504 overflow then.
    """

    def __init__(self, comm: Comm, named: Iterable[tuple[str, nn.Parameter]], compression: str = "none") -> None:
        self._comm, self._half = comm, compression == "fp16"
        self._named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self._armed = False
        self._sent: dict[str, tuple[Wait, Tensor, Tensor]] = {}
        if comm.size > 1:
            for name, parameter in self._named:
                parameter.register_post_accumulate_grad_hook(partial(self._start, name))

    def arm(self) -> None:
        """The next backward is the update's last: its gradients are the sums to send."""
        self._armed = True

    def _start(self, name: str, parameter: Tensor) -> None:
        grad = parameter.grad
        if self._armed and grad is not None:
            sent = grad.half() if self._half else grad
            self._sent[name] = self._comm.mean_async_(sent, f"gradient.{name}"), sent, grad

    def finish(self) -> None:
        """Wait for all of them.

        Raises:
            RuntimeError: a trainable parameter had no gradient on this rank, so ranks would wait for each other.
        """
        self._armed = False
        if self._comm.size == 1:
            return
        silent = [name for name, _ in self._named if name not in self._sent]
        if silent:
            raise RuntimeError(f"no gradient for {', '.join(silent[:3])}; a matcher freezes what no loss reaches")
        for wait, sent, grad in self._sent.values():
            wait()
            if sent is not grad:
                grad.copy_(sent)
        self._sent.clear()
