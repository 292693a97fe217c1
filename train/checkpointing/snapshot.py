"""A snapshot of a run in host memory: written to disk, kept for recovery, and sent to new ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """All that an exact resume needs; copies that no later update changes.

    Attributes:
        weights: the model's state dict, tensors in host memory.
        state: everything else; tensors in host memory and plain values only.
        facts: JSON: the run, and what it was trained on.
    """

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def of(cls, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], facts: dict[str, Any]) -> Snapshot:
        """Copies of what goes on changing."""
        return cls(step, copy_to_host(dict(weights)), copy_to_host(dict(state)), facts)


def copy_to_host(value: Any) -> Any:
    """The same with every tensor copied into host memory, however deep it lies."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {name: copy_to_host(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_host(part) for part in value)
    return value
