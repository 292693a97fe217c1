"""Measure a trained model on its splits, or count the recalls of a score file again."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from argparse import ArgumentParser, Namespace

import numpy as np

from config.errors import ConfigError, DataError
from config.schema import Run
from train.checkpoint import Checkpoints
from train.comm import Comm
from train.entry import leave, main, table
from train.journal import Journal
from train.measure import judged, measure, read_json, write_json
from train.recipe import build_parts


def flags(parser: ArgumentParser) -> None:
    """The entry's own flags."""
    parser.add_argument("--split", default="test", choices=("val", "test"), help="which split (default: test)")
    parser.add_argument(
        "--which", default="best", help="best, latest, or a checkpoint's path (default: best of output_dir)"
    )
    parser.add_argument("--scores", default="", help="count this folder's matrix.npy and ids.json instead of scoring")


def work(run: Run, args: Namespace, comm: Comm) -> int:
    """Score a split and write its recalls to output_dir/results.json."""
    if not run.output.output_dir:
        raise ConfigError("output_dir is not set; give --output_dir FOLDER (a training run's, or a new one)")
    folder = Path(run.output.output_dir)
    if args.scores:
        return recount(run, Path(args.scores), args.split, folder)
    checkpoint = chosen(args.which, folder, run.weights.checkpoint)
    parts = build_parts(run, comm, str(checkpoint))
    split = parts.split(args.split)
    if split is None:
        raise ConfigError(f"{args.split}_txt_db and {args.split}_img_db are not set; name the stores of this split")
    if args.dry_run:
        sys.stderr.write(f"ready: {len(split.index.images)} images x {len(split.index.texts)} texts\n")
        return 0
    with Journal(folder, comm.rank, tensorboard=False) as journal:
        found = measure(parts, split, args.split, folder, journal)
    if found is not None:
        report(folder, args.split, found | {"checkpoint": str(checkpoint)})
    return 0


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
        raise DataError(f"{scores / 'matrix.npy'}: {error}; name a folder that an evaluation wrote") from error
    owner = np.asarray(read_json(scores / "ids.json")["owner"])
    report(folder, split, judged(run.eval, matrix, owner) | {"scores": str(scores)})
    return 0


def report(folder: Path, split: str, found: dict[str, object]) -> None:
    """Put a split's entry into results.json, keep the others, and print its table."""
    path = folder / "results.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, (read_json(path) if path.exists() else {}) | {split: found})
    sys.stdout.write(table(found["recalls"]))  # type: ignore[arg-type]


if __name__ == "__main__":
    leave(main("evaluate", __doc__ or "", work, flags))
