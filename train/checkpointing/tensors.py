"""Named tensors written as a safetensors file, straight from their memory to any stream."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO

import torch
from torch import Tensor

KINDS = {torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
         torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip
"""The library's names of types, in the order in which it lays their tensors out: each begins at a multiple of its
size."""
ALIGNMENT = 8


def write_tensors(file: IO[bytes], tensors: Mapping[str, Tensor]) -> None:
    """What `safetensors.torch.save_file` writes, byte for byte.

    Args:
        tensors: in host memory; those that share memory are written each by itself.

    Raises:
        OSError: the stream cannot be written.
    """
    order = sorted(tensors, key=lambda name: (list(KINDS).index(tensors[name].dtype), name.encode()))
    described, end = {}, 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        kind, shape = KINDS[tensors[name].dtype], list(tensors[name].shape)
        described[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    file.write(struct.pack("<Q", len(header)) + header)
    for name in order:
        file.write(tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
