"""Turn published weights into ours, and ours into published ones, without unpickling anything but tensors.

    python scripts/convert_ckpt.py uniter-base.pt --to house --output uniter-base.safetensors
    python scripts/convert_ckpt.py run/ckpt/best --to published --output model_step_5000.pt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from torch import Tensor

from config.errors import ConfigError, DataError
from model import adapt
from scripts._program import run
from train.checkpoint import read_weights


def convert(state: dict[str, Tensor], system: str, to: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the other names, in float32, and the names that were left out.

    Raises:
        DataError: nothing in `state` belongs to `system` under the names that are to be changed.
    """
    if to == "house":
        found, left_out = adapt.to_house(system, state)
        if not found:
            raise DataError(f"none of its {len(state)} tensors is published {system}; is it converted already?")
    else:
        found, left_out = adapt.to_published(system, state), []
    return {name: tensor.float().contiguous() for name, tensor in found.items()}, left_out


def write(path: Path, state: dict[str, Tensor]) -> None:
    """Save `.safetensors` or, for published programs, `.pt`; whole or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, beside)
    else:
        torch.save(state, beside)
    beside.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a checkpoint folder, a .safetensors or a .pt file")
    parser.add_argument("--to", required=True, choices=("house", "published"), help="whose names to write")
    parser.add_argument("--output", required=True, type=Path, help="a .safetensors or .pt file")
    parser.add_argument("--matcher", default="uniter", choices=sorted(adapt.TABLES), help="the system")
    options = parser.parse_args(arguments)
    if options.output.suffix not in (".safetensors", ".pt"):
        raise ConfigError(f"--output {options.output}: must end in .safetensors or .pt")
    state, left_out = convert(read_weights(options.input), options.matcher, options.to)
    write(options.output, state)
    print(f"{len(state)} tensors in {options.output}, {len(left_out)} left out")
    for name in left_out:
        print(f"  left out: {name}")
    return 0


if __name__ == "__main__":
    run(main)
