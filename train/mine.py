"""Mine offline candidates: for each image the texts, for each text the images, that a checkpoint finds most alike."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from argparse import ArgumentParser, Namespace

import numpy as np

from config.command.settings_read import mining
from config.errors import ConfigError, DataError
from config.schema import Run
from data.batches.pairs import Array, PairIndex
from data.stores.picture_store import PictureView
from model.matcher import find
from train.assembly.recipe import build_parts
from train.assembly.splits import open_split, store_folders
from train.distributed.comm import Comm
from train.distributed.devices import choose_device
from train.entry import leave, main
from train.evaluate import CHECKPOINT, choose_checkpoint
from train.metrics.journal import Journal
from train.metrics.throughput import report_throughput
from train.mining.job import Job, mine
from train.mining.manifest import GivenEmbeddings
from train.mining.screen import ROWS
from train.mining.settings import Settings, settings_of
from train.mining.settings import flags as mining_flags
from train.mining.storage import open_memmap

RANDOM = "random"


def flags(parser: ArgumentParser) -> None:
    """The entry's own flags."""
    parser.add_argument(
        "--which",
        help="best, latest, a checkpoint's path, or random for untrained weights (default: best of output_dir)",
    )
    parser.add_argument("--lists", type=Path, metavar="FOLDER",
                        help="where the lists go, what training calls --offline (default: output_dir/offline)")
    parser.add_argument("--embeddings", type=Path, metavar="FOLDER",
                        help="mine from this folder's img_embs*.npy and cap_embs*.npy instead of a checkpoint")
    parser.add_argument("--captions_per_image", type=int, default=0, metavar="N",
                        help="with --embeddings: caption t is of image t // N (default: the training stores say)")
    mining_flags(parser)


def work(run: Run, args: Namespace, comm: Comm) -> int:
    """Mine the training split; the lists and their manifest are in the folder on return."""
    settings = settings_of(args)
    if not (args.lists or run.output.output_dir):
        raise ConfigError("output_dir is not set; give --output_dir FOLDER (a training run's), or --lists FOLDER")
    folder = args.lists or Path(run.output.output_dir) / "offline"
    if args.embeddings:
        if args.which:
            raise ConfigError("--embeddings and --which exclude each other: no checkpoint embeds anything here")
        return mine_given(run, args, settings, folder, comm)
    if args.captions_per_image:
        raise ConfigError("--captions_per_image comes with --embeddings; stores say themselves whose a caption is")
    if args.which == RANDOM:
        origin = run.weights.checkpoint or f"random weights of seed {run.seed}"
        parts = build_parts(run, comm)
    else:
        folder_of_run = Path(run.output.output_dir)
        start = run.weights.checkpoint, CHECKPOINT in args.said
        origin = comm.run_on_first(lambda: str(choose_checkpoint(args.which or "best", folder_of_run, *start)))
        parts = build_parts(run, comm, origin)
    split = parts.split("train")
    if split is None:
        raise ConfigError("train_txt_dbs and train_img_dbs are not set; name the stores to mine")
    if args.dry_run:
        return report_sizes(len(split.index.images), len(split.index.texts))
    with Journal(run.output.output_dir or None, comm.rank, tensorboard=False) as journal:
        for note in parts.notes:
            journal.say(note)
        mine(parts, split.index, folder, settings, origin, journal)
        journal.say(f"{folder}: candidates of {len(split.index.images)} images and {len(split.index.texts)} texts")
    return 0


def mine_given(run: Run, args: Namespace, settings: Settings, folder: Path, comm: Comm) -> int:
    """Mine embeddings that are there already, such as published ones."""
    source = GivenEmbeddings(sole_file(args.embeddings, "img_embs"), sole_file(args.embeddings, "cap_embs"))
    images, texts = (open_embeddings(path) for path in (source.images, source.texts))
    if images.shape[1] != texts.shape[1]:
        raise DataError(f"{source.images} is {images.shape[1]} wide and {source.texts} {texts.shape[1]}; give two of "
                        "one model")
    index = None
    if store_folders("train", run.data):
        # Who owns whom is all that is asked of the stores; of pictures no pixel.
        pictures = PictureView(side=1) if find(run.matcher.name).takes_pictures else None
        index = open_split("train", run.data, comm, pictures=pictures).index
    owner = owners(index, args.captions_per_image, len(images), len(texts))
    if args.dry_run:
        return report_sizes(len(images), len(texts))
    with Journal(run.output.output_dir or None, comm.rank, tensorboard=False) as journal:
        job = Job(comm, choose_device(run.cluster.device, comm), folder, settings, source, owner, index, journal.say)
        with report_throughput("mine", str(folder), job.clock, comm, journal):
            job.run()
        journal.say(f"{folder}: candidates of {len(images)} images and {len(texts)} texts")
    return 0


def report_sizes(images: int, texts: int) -> int:
    """What a dry run says."""
    sys.stderr.write(f"ready: {images} images x {texts} texts\n")
    return 0


def sole_file(folder: Path, name: str) -> Path:
    """The one file of embeddings whose name begins so; raises DataError where there is none or several."""
    found = sorted(folder.glob(f"{name}*.npy"))
    if len(found) != 1:
        raise DataError(f"{folder}: holds {len(found)} files {name}*.npy, one is wanted; name another folder")
    return found[0]


def open_embeddings(path: Path) -> Array:
    """Embeddings `[rows, d]`, memory-mapped; raises DataError for anything else or a number that is not finite."""
    try:
        values = open_memmap(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole array ({error}); export the embeddings again") from error
    if values.ndim != 2 or values.dtype not in (np.float16, np.float32, np.float64):
        raise DataError(f"{path}: {values.dtype} {list(values.shape)} is no table of embeddings; export them again")
    for start in range(0, len(values), ROWS):
        wrong = np.flatnonzero(~np.isfinite(values[start : start + ROWS]).all(1))
        if len(wrong):
            raise DataError(f"{path}: row {start + wrong[0]} is not finite; export the embeddings again")
    return values


def owners(index: PairIndex | None, captions_per_image: int, images: int, texts: int) -> Array:
    """The image of each caption, from the stores or from counting.

    Raises:
        ConfigError: neither says it.
        DataError: the embeddings are of other items than that.
    """
    if index is not None and captions_per_image:
        raise ConfigError("--captions_per_image and the training stores both say whose a caption is; give one of them")
    if index is not None:
        if (images, texts) != (len(index.images), len(index.texts)):
            raise DataError(f"embeddings of {images} images and {texts} captions, but the stores have "
                            f"{len(index.images)} and {len(index.texts)}; embed these stores")
        return index.owner
    if not captions_per_image:
        raise ConfigError(f"{texts} captions of {images} images, but whose is each caption? Name the stores with "
                          "train_txt_dbs and train_img_dbs, or give --captions_per_image N")
    if texts != images * captions_per_image:
        raise DataError(f"{texts} captions are not {captions_per_image} to each of {images} images; embed each image "
                        "once, in the order of the captions")
    return np.arange(texts) // captions_per_image


if __name__ == "__main__":
    leave(main("mine", __doc__ or "", work, mining, flags))
