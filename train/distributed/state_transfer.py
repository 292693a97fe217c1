"""State transfer in elastic runs: the newest snapshot of any rank reaches all ranks."""

from __future__ import annotations

import io

import torch

from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Comm


def transfer_newest(held: Snapshot | None, comm: Comm) -> Snapshot | None:
    """The newest snapshot that any rank holds, on all ranks; None where none holds one. To be called by all."""
    steps = comm.all_gather_object(-1 if held is None else held.step)
    best = max(steps)
    if best < 0:
        return None
    if min(steps) == best:
        return held
    root = steps.index(best)
    content = pack_snapshot(held) if comm.rank == root and held is not None else b""
    size = torch.tensor([len(content)])
    comm.broadcast_(size, "state_transfer.size", root)
    room = bytearray(content) if content else bytearray(int(size))
    sent = torch.frombuffer(room, dtype=torch.uint8)
    comm.broadcast_(sent, "state_transfer", root)
    return held if held is not None and held.step == best else unpack_snapshot(sent)


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """A snapshot as bytes that `unpack_snapshot` reads."""
    buffer = io.BytesIO()
    torch.save(vars(snapshot), buffer)
    return buffer.getvalue()


def unpack_snapshot(content: torch.Tensor) -> Snapshot:
    """The snapshot in these bytes; only tensors and plain values are read."""
    return Snapshot(**torch.load(io.BytesIO(content.numpy().tobytes()), "cpu", weights_only=True))
