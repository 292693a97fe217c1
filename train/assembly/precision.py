"""The arithmetic of the forward pass: float32, or fp16 / bf16 through torch.amp with float32 parameters."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

DTYPES = {"off": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """Autocast, and the loss scale that fp16 needs so that small gradients survive."""

    def __init__(self, kind: str, device: torch.device) -> None:
        self._dtype, self._device = DTYPES[kind], device
        self._scaler = torch.amp.GradScaler(device.type, enabled=kind == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of every forward pass."""
        enabled = self._dtype != torch.float32
        return torch.autocast(self._device.type, self._dtype if enabled else None, enabled=enabled)

    def loss_scale(self) -> float:
        """What `backward` multiplies the loss by; 1 but for fp16, where the device is waited for."""
        return self._scaler.get_scale()

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn scaled gradients back into true ones; once, before clipping."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update, unless a gradient overflowed; then the scale is lowered instead."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def skip(self) -> None:
        """Leave an update out; the scale is lowered where a gradient overflowed."""
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)
