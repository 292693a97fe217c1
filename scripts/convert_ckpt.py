"""Turn published weights into ours, and ours into published ones, without unpickling anything but tensors.

    python scripts/convert_ckpt.py uniter-base.pt --to house --output uniter-base.safetensors
    python scripts/convert_ckpt.py run/ckpt/best --to published --output model_step_5000.pt
    python scripts/convert_ckpt.py model_bfan_coco_equal.pth.tar --matcher bfan --to house --output bfan-equal
    python scripts/convert_ckpt.py model_best.pth --matcher laps --to house --output laps

The last two write a checkpoint folder: the weights, and the settings that they were trained with, so that
train/evaluate.py can measure it at once (--config bfan-equal/config.json --which bfan-equal). What a file does not
tell of its settings is taken from the published recipe, and said.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from torch import Tensor

from config.errors import ConfigError, DataError
from data.files import sync
from model import adapt
from model.names import TABLES
from scripts._program import run
from train.checkpoint import CONFIG, WEIGHTS, read_weights
from train.published import guesses, matcher_of, read_published
from train.sealing import Unsealed
from train.tensors import write_tensors


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


def unpack(source: Path, system: str, folder: Path) -> tuple[list[str], list[str]]:
    """Write a published checkpoint with its options as a checkpoint folder.

    Returns:
        the names that were left out, and the settings that the file did not tell.

    Raises:
        ConfigError: the folder exists.
        DataError: the file is no whole checkpoint of this system.
    """
    if folder.exists():
        raise ConfigError(f"--output {folder}: exists already; name a new folder, or end it in .safetensors or .pt")
    published = read_published(source, system)
    matcher = matcher_of(system, published)
    loaded = adapt.load(matcher, system, published.weights)
    if loaded.missing:
        lacking = ", ".join(adapt.published_name(system, name) for name in loaded.missing[:3])
        count = len(loaded.missing)
        raise DataError(f"{source}: lacks {count} tensors of {system} ({lacking} ...); is it another system's?")
    guessed = guesses(system, published)
    note = published.facts | {"source": source.name, "options": published.options}
    note |= {"guessed": guessed} if guessed else {}
    made = Unsealed(folder.with_name(f".{folder.name}.partial"))
    with made.file(WEIGHTS) as file:
        write_tensors(file, matcher.state_dict())
    with made.file(CONFIG) as file:
        settings = matcher.config.model_dump(mode="json")
        file.write(json.dumps({"_note": note, "matcher": settings}, ensure_ascii=False, indent=1).encode())
    made.seal({"source": source.name})
    made.folder.rename(folder)
    sync(folder.parent)
    return loaded.ignored, guessed


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
    parser.add_argument("input", type=Path, help="a checkpoint folder, a .safetensors, .pt, .pth or .pth.tar file")
    parser.add_argument("--to", required=True, choices=("house", "published"), help="whose names to write")
    written = "a .safetensors or .pt file; a new folder for a published file with its settings"
    parser.add_argument("--output", required=True, type=Path, help=written)
    parser.add_argument("--matcher", default="uniter", choices=sorted(TABLES), help="the system")
    options = parser.parse_args(arguments)
    if options.output.suffix in (".safetensors", ".pt"):
        state, left_out = convert(read_weights(options.input), options.matcher, options.to)
        write(options.output, state)
        print(f"{len(state)} tensors in {options.output}, {len(left_out)} left out")
    elif options.output.suffix or options.to == "published":
        raise ConfigError(f"--output {options.output}: must end in .safetensors or .pt")
    else:
        left_out, guessed = unpack(options.input, options.matcher, options.output)
        print(f"weights and settings in {options.output}, {len(left_out)} tensors left out")
        for setting in guessed:
            print(f"  not told by the file: {setting}")
    for name in left_out:
        print(f"  left out: {name}")
    return 0


if __name__ == "__main__":
    run(main)
