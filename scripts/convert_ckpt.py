"""Turn published weights into ours, and ours into published ones, without unpickling anything but tensors.

    python scripts/convert_ckpt.py uniter-base.pt --to house --output uniter-base.safetensors
    python scripts/convert_ckpt.py model_bfan_coco_equal.pth.tar --to house --output bfan-equal
    python scripts/convert_ckpt.py run/ckpt/best --to published --output model_best.pth.tar
    python scripts/convert_ckpt.py run/ckpt/best --to published --output model_best.pth.tar --option vocab_path=./vocab

Which system the weights are of is read from them. An output without an ending is a checkpoint folder: the weights, and
the settings that they were trained with, so that train/evaluate.py can measure it at once (train/evaluate.py --config
bfan-equal/config.json --which bfan-equal). What a file does not tell of its settings is taken from the published
recipe, and said.

Published files are what the published programs read: a state dict for UNITER; the state dicts with the options of the
training (`model`, `opt`, `epoch`, `best_rsum`, `Eiters`) for VSRN, BFAN and LAPS. --option adds what only those
programs know, such as their folders.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from config.paths import CONFIG, WEIGHTS
from config.wording import pluralise
from data.files import replace_atomically, sync
from model import conversion
from model.loading import SHOWN, load_to_score, takes_no_part
from model.published_names import TABLES
from scripts.command.program import Parser, run
from train.checkpointing.checkpoint import read_run, read_weights
from train.checkpointing.export import build_published_matcher, published_content, write_published
from train.checkpointing.manifest import FolderWriter
from train.checkpointing.published import Plain, build_matcher, guess_settings, read_published
from train.checkpointing.tensors import write_tensors

PUBLISHED = (".pt", ".pth", ".tar")
BARE = (".safetensors", ".pt")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    check(options)
    system = options.matcher or system_of(options.input)
    convert = export if options.to == "published" else unpack if not options.output.suffix else rename
    for line in convert(options, system):
        print(line)
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's flags."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("input", type=Path, help="a checkpoint folder, a .safetensors, .pt, .pth or .pth.tar file")
    flags.add_argument("--to", required=True, choices=("house", "published"), help="whose names and layout to write")
    written = "a new .pt, .pth or .pth.tar (published), a new .safetensors or .pt (our weights alone), or a new folder"
    flags.add_argument("--output", required=True, type=Path, help=written)
    flags.add_argument("--matcher", choices=sorted(TABLES), help="the system (default: what the weights are of)")
    flags.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the published programs to write, by their name; VALUE is JSON, or else a text",
    )  # fmt: skip
    unknown = "leave out tensors that the system has no place for, and say so"
    flags.add_argument("--leave_out_unknown", action="store_true", help=unknown)
    return flags


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for an output that is there, or whose ending does not fit what is to be written."""
    output, suffix = options.output, options.output.suffix
    if output.exists():
        raise ConfigError(f"--output {output}: exists already; name a new file or folder")
    if options.to == "published" and suffix not in PUBLISHED:
        raise ConfigError(f"--output {output}: must end in {', '.join(PUBLISHED)} for a published program")
    if options.to == "house" and suffix and suffix not in BARE:
        raise ConfigError(f"--output {output}: must end in {' or '.join(BARE)}, or in nothing for a checkpoint folder")
    if options.option and options.to == "house":
        raise ConfigError("--option is for --to published; settings of ours come from the file")


def system_of(path: Path) -> str:
    """The system that a checkpoint is of; raises DataError where nothing tells."""
    state, noted = read_weights(path), read_run(path).get("matcher", {}).get("name")
    found = noted or conversion.system_of(state)
    if found not in TABLES:
        raise DataError(f"{path}: none of its {len(state)} tensors has a name of {', '.join(sorted(TABLES))}; name its "
                        "weights, or the system with --matcher")  # fmt: skip
    return str(found)


def rename(options: argparse.Namespace, system: str) -> list[str]:
    """Published weights under our names, in float32, as a file.

    Raises:
        DataError: nothing belongs to `system` under published names, or something is unknown.
    """
    published = read_weights(options.input)
    check_finite(options.input, published)
    found, nameless = conversion.to_house(system, conversion.take_rank_row(published))
    if not found:
        raise DataError(f"{options.input}: none of its {len(published)} tensors is published {system}; is it converted "
                        "already?")  # fmt: skip
    refuse_unknown(options, system, nameless)
    state = {name: single(tensor) for name, tensor in found.items()}
    with replace_atomically(options.output) as beside:
        if options.output.suffix == ".safetensors":
            with beside.open("wb") as file:
                write_tensors(file, state)
        else:
            torch.save(state, beside)
    return [f"{pluralise(len(state), 'tensor')} in {options.output}, {len(nameless)} left out", *left_out(nameless)]


def unpack(options: argparse.Namespace, system: str) -> list[str]:
    """A published checkpoint with its options as a checkpoint folder.

    Raises:
        DataError: the file is no whole checkpoint of this system.
    """
    source, folder = options.input, options.output
    published = read_published(source, system)
    check_finite(source, published.weights)
    matcher = build_matcher(system, published)
    found, nameless = conversion.to_house(system, conversion.take_rank_row(published.weights))
    placeless = [*nameless, *(name for name in found if name not in matcher.state_dict())]
    refuse_unknown(options, system, placeless)
    load_to_score(matcher, system, {n: t for n, t in found.items() if n not in placeless}, str(source))
    guessed = guess_settings(system, published)
    note = published.facts | {"source": source.name, "options": published.options}
    note |= {"guessed": guessed} if guessed else {}
    made = FolderWriter(folder.with_name(f".{folder.name}.partial"))
    with made.file(WEIGHTS) as file:
        write_tensors(file, matcher.state_dict())
    with made.file(CONFIG) as file:
        settings = matcher.config.model_dump(mode="json")
        file.write(json.dumps({"_note": note, "matcher": settings}, ensure_ascii=False, indent=1).encode())
    made.seal({"source": source.name})
    made.folder.rename(folder)
    sync(folder.parent)
    told = [f"  not told by the file: {setting}" for setting in guessed]
    first = f"weights and settings in {folder}, {pluralise(len(placeless), 'tensor')} left out"
    return [first, *told, *left_out(placeless)]


def export(options: argparse.Namespace, system: str) -> list[str]:
    """Weights of ours as the published programs read them.

    Raises:
        ConfigError: an option contradicts the weights.
        DataError: the weights are not whole, or the published layout has no place for them.
    """
    made_by = read_run(options.input)
    weights = read_weights(options.input)
    check_finite(options.input, weights)
    matcher = build_published_matcher(system, weights, made_by)
    content, notes = published_content(matcher, made_by, given(options.option))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(options.output) as beside:
        write_published(beside, content)
    if "matcher" not in made_by and system != "uniter":
        notes.append(f"{options.input} tells no settings; those of the shapes and of the published recipe were written")
    count = pluralise(len(matcher.state_dict()), "tensor")
    return [f"{count} of {system} in {options.output}", *(f"  {note}" for note in notes)]


def given(words: Sequence[str]) -> dict[str, Plain]:
    """The options written as NAME=VALUE; raises ConfigError for anything else."""
    found: dict[str, Plain] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name.isidentifier() and equals):
            raise ConfigError(f"--option {word}: should be NAME=VALUE, as in --option data_name=f30k_precomp")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[name] = value if isinstance(value, Plain) else text
    return found


def refuse_unknown(options: argparse.Namespace, system: str, names: Sequence[str]) -> None:
    """Raise DataError where a system has no place for some tensors, unless they are to be left out."""
    strange = [name for name in names if not takes_no_part(system, name)]
    if strange and not options.leave_out_unknown:
        more = " ..." if len(strange) > SHOWN else ""
        raise DataError(f"{options.input}: {system} has no place for {len(strange)} of its tensors "
                        f"({', '.join(strange[:SHOWN])}{more}); --leave_out_unknown leaves them out")  # fmt: skip


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise DataError where weights hold numbers that are not finite: training had failed."""
    wrong = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        more = " ..." if len(wrong) > SHOWN else ""
        raise DataError(f"{path}: {pluralise(len(wrong), 'tensor')} with numbers that are not finite "
                        f"({', '.join(wrong[:SHOWN])}{more}); give weights of an earlier checkpoint")  # fmt: skip


def single(tensor: Tensor) -> Tensor:
    """A floating tensor in float32; counters as they are."""
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def left_out(names: Sequence[str]) -> list[str]:
    """What to say of tensors that were left out."""
    return [f"  left out: {name}" for name in names]


if __name__ == "__main__":
    run(main)
