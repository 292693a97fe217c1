"""Measure a trained model on its splits, or kept scores of one or several; ISDa where phrases have boxes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from config.command.settings_read import measuring
from config.errors import ConfigError, DataError
from config.schema import Run
from train.assembly.recipe import build_parts
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.checkpoint_path import checkpoint_at
from train.distributed.comm import Comm
from train.entry import leave, main
from train.evaluation.isda import check_offers_attention, format_line, measure_isda
from train.evaluation.results import format_recalls, write_entry
from train.evaluation.retrieval import compute_recalls, measure
from train.metrics.journal import Journal
from train.scoring.scores import CANDIDATES, ENSEMBLE, MATRIX, TWO_STAGE, open_scores, write_ensemble

RANK_HEAD, CHECKPOINT = "weights.rank_head_init", "weights.checkpoint"


def flags(parser: ArgumentParser) -> None:
    """The entry's own flags."""
    parser.add_argument("--split", default="test", choices=("val", "test"), help="which split (default: test)")
    parser.add_argument(
        "--which", help="best, latest, or a checkpoint's path (default: best of output_dir)"
    )
    parser.add_argument(
        "--isda",
        action="store_true",
        help="measure ISDa instead: how far words and regions disagree on the relations of annotated objects; give the "
        "stores with --test_txt_db and --test_img_db (regions are the annotated boxes)",
    )
    parser.add_argument(
        "--scores",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="count a kept score matrix instead of scoring, or an ensemble: the mean of several; each a folder with "
        "matrix.npy and ids.json, or a run's output folder with scores of this split",
    )


def work(run: Run, args: Namespace, comm: Comm) -> int:
    """Score a split and write its recalls to output_dir/results.json."""
    if not run.output.output_dir:
        raise ConfigError("output_dir is not set; give --output_dir FOLDER (a training run's, or a new one)")
    folder = Path(run.output.output_dir)
    if args.scores and args.isda:
        raise ConfigError("--scores and --isda exclude each other: a score matrix says nothing of attention")
    if args.scores and args.which:
        raise ConfigError("--scores and --which exclude each other: kept scores are counted, no checkpoint is measured")
    if args.scores:
        return recount(run, args, folder) if comm.rank == 0 else 0
    start = run.weights.checkpoint, CHECKPOINT in args.said
    checkpoint = Path(comm.run_on_first(lambda: str(choose_checkpoint(args.which or "best", folder, *start))))
    # What a run's config says of the rank head is about its start; the weights that it trained have one of their own.
    rank_head = run.weights.rank_head_init if RANK_HEAD in args.said else "if_missing"
    parts = build_parts(run, comm, str(checkpoint), rank_head=rank_head)
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
        for note in parts.notes:
            journal.say(note)
        if args.isda:
            found = measure_isda(parts, split, journal)
            write_result(folder, f"isda-{args.split}", found and found | {"checkpoint": str(checkpoint)}, format_line)
        else:
            found = measure(parts, split, args.split, folder, journal)
            write_result(folder, args.split, found and found | {"checkpoint": str(checkpoint)}, format_recalls)
    return 0


def write_result(folder: Path, name: str, found: dict[str, Any] | None, told: Callable[[dict[str, Any]], str]) -> None:
    """On the rank that found something: keep it in results.json and print it."""
    if found is not None:
        write_entry(folder, name, found)
        sys.stdout.write(told(found))


def choose_checkpoint(which: str, folder: Path, start: str, is_said: bool = False) -> Path:
    """The checkpoint to measure; the run's start weights where nothing was trained in `folder`.

    Damaged ones that are passed over are told on stderr: there is no log before the stores are open.

    Args:
        is_said: the command line itself names the start weights.

    Raises:
        ConfigError: it does, and another checkpoint goes before them.
        DataError: there is none, or what is named is none.
    """
    if which not in ("best", "latest") and is_said:
        raise ConfigError(f"--checkpoint {start} and --which {which} both name weights; leave --checkpoint out")
    if which not in ("best", "latest"):
        return checkpoint_at(Path(which), "which")
    checkpoints, passed_over = Checkpoints(folder, keep=1), list[str]()
    found = (checkpoints.marked_best() if which == "best" else None) or checkpoints.newest(passed_over.append)
    sys.stderr.writelines(f"{line}\n" for line in passed_over)
    if found is not None and is_said:
        raise ConfigError(f"--checkpoint {start}: {folder} holds checkpoints of its own, which go before weights to "
                          "start from; name these with --which, or leave --checkpoint out")
    if found is None and start:
        return checkpoint_at(Path(start), "checkpoint")
    if found is None:
        raise DataError(f"{folder}: holds no checkpoint; name one with --which PATH, or its folder with --output_dir")
    return found


def recount(run: Run, args: Namespace, folder: Path) -> int:
    """Recalls of a kept score matrix, or of the mean of several, under the run's counting options.

    The mean is kept like the scores of one model, in `folder/scores/<split>-ensemble`.

    Raises:
        ConfigError: a matrix is named twice.
        DataError: a matrix is missing, or two are not of the same pairs.
    """
    places = [find_scores(place, args.split) for place in args.scores]
    twice = next((place for place in places if sum(place.samefile(other) for other in places) > 1), None)
    if twice:
        raise ConfigError(f"--scores names {twice} twice; its model would count double in the mean")
    name = args.split + (ENSEMBLE if len(places) > 1 else "")
    if args.dry_run:
        sys.stderr.write(f"ready: {name} of {len(places)} score matrices\n")
        return 0
    one = len(places) == 1
    scores = open_scores(places[0]) if one else write_ensemble(folder / "scores" / name, places)
    source = {"scores": str(places[0])} if one else {"ensemble": [str(place) for place in places]}
    write_result(folder, name, compute_recalls(run.eval, scores.matrix, scores.owner) | source, format_recalls)
    return 0


def find_scores(place: Path, split: str) -> Path:
    """The folder of a split's score matrix: `place` itself, or where a run with that output folder keeps it.

    Raises:
        DataError: neither holds a matrix, or candidates of two stages alone.
    """
    found = next((folder for folder in (place, place / "scores" / split) if (folder / MATRIX).is_file()), None)
    if found is None:
        if any((folder / CANDIDATES).is_file() for folder in (place, place / "scores" / (split + TWO_STAGE))):
            raise DataError(
                f"{place}: holds the candidates of two stages and no whole matrix; evaluate that run on {split} with "
                "--two_stage 0 first"
            )
        raise DataError(f"{place}: holds no {MATRIX}, nor does its scores/{split}; evaluate that run on {split} first")
    return found


if __name__ == "__main__":
    leave(main("evaluate", __doc__ or "", work, measuring, flags))
