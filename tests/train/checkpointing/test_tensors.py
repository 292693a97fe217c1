"""train/checkpointing/tensors.py: what the library writes, byte for byte."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from train.checkpointing.tensors import KINDS, write_tensors


def written(tensors: dict[str, Tensor]) -> bytes:
    file = BytesIO()
    write_tensors(file, tensors)
    return file.getvalue()


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_librarys_file(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, kind in enumerate([*KINDS, *KINDS]):
        shape = torch.randint(0, 4, (seed,), generator=draw).tolist()
        values = torch.randint(0, 2, shape, generator=draw).to(kind)
        tensors[f"{'zaéZ'[number % 4]}.{number}"] = values
    assert written(tensors) == save(tensors)
    read = load(written(tensors))
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_names_that_json_must_quote_and_no_tensors() -> None:
    odd = {'a"b\\c\n': torch.ones(2), "": torch.zeros(1)}
    assert load(written(odd)).keys() == odd.keys()
    assert written({}) == save({})


def test_tensors_that_share_or_skip_memory_are_written_whole() -> None:
    base = torch.arange(6.0).view(2, 3)
    read = load(written({"turned": base.T, "part": base[:, 1], "same": base}))
    assert torch.equal(read["turned"], base.T)
    assert torch.equal(read["part"], base[:, 1])
    assert torch.equal(read["same"], base)


def test_parameters_are_written() -> None:
    assert load(written({"a": torch.nn.Parameter(torch.ones(2))}))["a"].tolist() == [1, 1]
