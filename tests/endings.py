"""How runs end, compared to the bit: weights, optimizer, generators, place in the data, metrics and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support import events
from train.metrics.throughput import CLOCKED


def plain(value: Any) -> Any:
    """Tensors as lists, so that states can be compared to the bit."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.flatten().tolist()]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def last_words(folder: Path, kind: str) -> dict[int, dict[str, Any]]:
    """The last event of each step, without what a clock says."""
    return {event["step"]: {name: value for name, value in event.items() if name not in CLOCKED}
            for event in events(folder, kind)}


def assert_same_end(folder: Path, reference: Path, step: int) -> None:
    """Two finished runs of `step` updates, of which one may have been broken off and resumed, are the same."""
    ours, theirs = (place / "ckpt" / f"step-{step:08d}" for place in (folder, reference))
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    states = [plain(torch.load(place / "state.pt", weights_only=True)) for place in (ours, theirs)]
    assert states[0] == states[1]
    for kind in ("train", "valid"):
        assert last_words(folder, kind) == last_words(reference, kind)
    assert [(folder / "ckpt" / name).resolve().name for name in ("best", "latest")] == \
        [(reference / "ckpt" / name).resolve().name for name in ("best", "latest")]
    assert (folder / "scores/test/matrix.npy").read_bytes() == (reference / "scores/test/matrix.npy").read_bytes()
    assert (folder / "results.json").read_text() == (reference / "results.json").read_text()
