"""Measure a trained model on its splits, or count the recalls of a score file again; ISDa where phrases have boxes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import numpy as np

from config.errors import ConfigError, DataError
from config.schema import Run
from data.files import read_json
from train.checkpoint import Checkpoints
from train.comm import Comm
from train.entry import leave, main
from train.isda import check_offers_attention, measure_isda, one_line
from train.journal import Journal
from train.measure import judged, measure
from train.recipe import build_parts
from train.results import REMEDY, keep, table


def flags(parser: ArgumentParser) -> None:
    """The entry's own flags."""
    parser.add_argument("--split", default="test", choices=("val", "test"), help="which split (default: test)")
    parser.add_argument(
        "--which", default="best", help="best, latest, or a checkpoint's path (default: best of output_dir)"
    )
    parser.add_argument(
        "--isda",
        action="store_true",
        help="measure ISDa instead: how far words and regions disagree on the relations of annotated objects; give the "
        "stores with --test_txt_db and --test_img_db (regions are the annotated boxes)",
    )
    parser.add_argument("--scores", default="", help="count this folder's matrix.npy and ids.json instead of scoring")


def work(run: Run, args: Namespace, comm: Comm) -> int:
    """Score a split and write its recalls to output_dir/results.json."""
    if not run.output.output_dir:
        raise ConfigError("output_dir is not set; give --output_dir FOLDER (a training run's, or a new one)")
    folder = Path(run.output.output_dir)
    if args.scores and args.isda:
        raise ConfigError("--scores and --isda exclude each other: a score matrix says nothing of attention")
    if args.scores:
        return recount(run, Path(args.scores), args.split, folder)
    checkpoint = chosen(args.which, folder, run.weights.checkpoint)
    parts = build_parts(run, comm, str(checkpoint))
    if args.isda:
        check_offers_attention(parts)
    # A picture without annotated boxes is not in a store of such boxes, and nothing can be measured on it.
    split = parts.split(args.split, leave_out_absent=args.isda)
    if split is None:
        raise ConfigError(f"{args.split}_txt_db and {args.split}_img_db are not set; name the stores of this split")
    if args.dry_run:
        sys.stderr.write(f"ready: {len(split.index.images)} images x {len(split.index.texts)} texts\n")
        return 0
    with Journal(folder, comm.rank, tensorboard=False) as journal:
        if args.isda:
            found = measure_isda(parts, split, journal)
            finish(folder, f"isda-{args.split}", found and found | {"checkpoint": str(checkpoint)}, one_line)
        else:
            found = measure(parts, split, args.split, folder, journal)
            finish(folder, args.split, found and found | {"checkpoint": str(checkpoint)}, table_of)
    return 0


def finish(folder: Path, name: str, found: dict[str, Any] | None, shown: Callable[[dict[str, Any]], str]) -> None:
    """On the rank that found something: keep it in results.json and print it."""
    if found is not None:
        keep(folder, name, found)
        sys.stdout.write(shown(found))


def table_of(found: dict[str, Any]) -> str:
    """The recalls of a split's entry."""
    return table(found["recalls"])


def chosen(which: str, folder: Path, start: str) -> Path:
    """The checkpoint to measure; the run's start weights where nothing was trained in `folder`.

    Raises:
        DataError: there is none.
    """
    if which not in ("best", "latest"):
        return Path(which)
    checkpoints = Checkpoints(folder, keep=1)
    found = (checkpoints.best() if which == "best" else None) or checkpoints.latest()
    if found is None and start:
        return Path(start)
    if found is None:
        raise DataError(f"{folder}: holds no checkpoint; name one with --which PATH, or its folder with --output_dir")
    return found


def recount(run: Run, scores: Path, split: str, folder: Path) -> int:
    """Recalls of a kept score matrix under the run's counting options."""
    try:
        matrix = np.load(scores / "matrix.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{scores / 'matrix.npy'}: {error}; {REMEDY}") from error
    owner = np.asarray(read_json(scores / "ids.json", REMEDY)["owner"])
    finish(folder, split, judged(run.eval, matrix, owner) | {"scores": str(scores)}, table_of)
    return 0


if __name__ == "__main__":
    leave(main("evaluate", __doc__ or "", work, flags))
