"""What a matcher looks at in chosen pairs, on one page: its attention, or the patches that it keeps.

    python scripts/attention.py RUN_DIR --pictures PLACE [--pairs IMAGE:CAPTION_ID ... | --count 4 --seed 0]

writes RUN_DIR/attention.html, one file that needs no network. Pairs are named, or drawn from the split by the seed.
Of UNITER it shows the weights that IAIS aligns: of the last layer, averaged over heads, each block of words and
regions normalised by itself. Of LAPS it shows which patches a caption keeps, and which of them each word is matched
with. WordPieces of one word are merged: the mean over those that look, the sum over those seen.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from config import load
from config.errors import ConfigError, DataError
from config.paths import CONFIG, Kind, inspect_path, run_at
from config.schema import Run
from data.batches.pairs import PairIndex
from data.draws import generator
from data.stores.lmdb_store import missing
from model.laps import Laps
from model.matcher import Matcher
from scripts.command.program import Parser, naming_runs, run
from scripts.page.attention import ATTENTION
from scripts.page.pairs import WIDTH, Drawing, Picture, Places, Subject, words_of
from scripts.page.patches import PATCHES
from scripts.page.render import write_page
from scripts.page.sources import Captions, Pictures, bare, files_for
from train.assembly.kinds import KINDS
from train.assembly.recipe import Parts, build_parts
from train.assembly.splits import Split
from train.checkpointing.checkpoint import Checkpoints
from train.distributed.comm import Solo
from train.scoring.scores import Scores

Pair = tuple[int, int]
"""Numbers of an image and a text."""

SIDE = 640  # pixels of an embedded picture


def open_run(args: argparse.Namespace) -> tuple[Run, Path]:
    """The run of an output folder, with the stores of the flags, and the weights to watch.

    Raises:
        ConfigError: the folder holds no run.
        DataError: it holds no checkpoint.
    """
    place, config = inspect_path(args.run_dir), args.run_dir / CONFIG
    if place.kind is not Kind.RUN:
        remedy = place.advice("give the output folder of a training run", Kind.RUN)
        raise ConfigError(f"{args.run_dir}: {place.clause}; {remedy}")
    given = {f"data.{args.split}_{kind}_db": getattr(args, f"{kind}_db") for kind in ("txt", "img")}
    run_of_folder = load(config, {key: path for key, path in given.items() if path}, KINDS)
    checkpoints = Checkpoints(args.run_dir, keep=1)
    checkpoint = args.checkpoint or checkpoints.marked_best() or checkpoints.newest(warn)
    if checkpoint is None:
        raise DataError(f"{args.run_dir}: holds no checkpoint; name one with --checkpoint PATH")
    return run_of_folder, checkpoint


def warn(line: str) -> None:
    """Tell of a damaged checkpoint."""
    print(f"attention.py: {line}", file=sys.stderr)


def open_parts(run_of_folder: Run, checkpoint: Path, split: str) -> tuple[Parts, Split]:
    """The model and the split.

    Raises:
        ConfigError: no stores are named.
        DataError: checkpoint and stores do not fit each other.
    """
    parts = build_parts(run_of_folder, Solo(), str(checkpoint))
    for note in parts.notes:
        warn(note)
    opened = parts.split(split)
    if opened is None:
        raise ConfigError(f"config.json names no stores of {split}; give --txt_db and --img_db")
    return parts, opened


def drawing_of(matcher: Matcher) -> Drawing:
    """What there is to draw of a matcher; raises ConfigError where there is nothing."""
    name = matcher.config.name
    if "attention" in matcher.offers:
        return ATTENTION
    if not isinstance(matcher, Laps):
        raise ConfigError(f"matcher {name} with these settings offers no attention; "
                          "give a run of another matcher, or one without its parity switches")
    if matcher.config.alignment != "slimmed":
        raise ConfigError(f"matcher {name} with alignment={matcher.config.alignment} slims nothing, so no patches can "
                          "be shown; give a run with alignment=slimmed")
    return PATCHES


def find_pairs(named: Sequence[str], index: PairIndex) -> list[Pair]:
    """The pairs written as IMAGE:CAPTION_ID, the image with or without its `.npz`.

    Raises:
        ConfigError: one is not written so.
        DataError: the stores hold no such image or caption.
    """
    images = {bare(name): number for number, name in enumerate(index.images)}
    texts = {name: number for number, name in enumerate(index.texts)}
    source, pairs = index.sources[0], []
    for pair in named:
        image, colon, text = pair.rpartition(":")
        if not (image and colon and text):
            example = f"{bare(index.images[index.owner[0]])}:{index.texts[0]}"
            raise ConfigError(f"--pairs {pair}: should be IMAGE:CAPTION_ID, such as {example}")
        if bare(image) not in images:
            raise missing(source.images.path, bare(image), images)
        if text not in texts:
            raise missing(source.texts.folder, text, texts)
        pairs.append((images[bare(image)], texts[text]))
    return pairs


def draw_pairs(count: int, seed: int, index: PairIndex) -> list[Pair]:
    """`count` captions with their own images; the same for the same seed and stores."""
    total = len(index.texts)
    if not 1 <= count <= total:
        raise ConfigError(f"--count {count}: the split has {total} captions; give 1 to {total}")
    texts = generator(seed, "attention").choice(total, count, replace=False)
    return [(int(index.owner[text]), text) for text in sorted(texts.tolist())]


def pictures_of(pictures: Pictures, pairs: Sequence[Pair], index: PairIndex) -> dict[int, Picture]:
    """The pictures of the pairs' images, by number; those that cannot be read are told and left out.

    Raises:
        DataError: none can be read.
    """
    found = {image: picture_of(pictures, index.images[image], image) for image, _ in pairs}
    shown = {image: picture for image, picture in found.items() if picture is not None}
    if not shown:
        name, why = next(iter(pictures.failed.items()))
        raise DataError(f"{pictures.place}: holds no readable picture of {name}: it {why}; name its folder or tar with "
                        "--pictures")
    if pictures.failed:
        told = "; ".join(f"{name} {why}" for name, why in pictures.failed.items())
        warn(f"pairs left out, for their pictures are not to be read: {told}")
    return shown


def picture_of(pictures: Pictures, image: str, number: int) -> Picture | None:
    """The picture of an image; None where it is missing or damaged."""
    source = pictures.thumbnail(image)
    if source is None:
        return None
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as opened:
        width, height = opened.size
    return Picture(f"picture-{number}", source, round(WIDTH * height / width, 1))


def subject_of(index: PairIndex, pair: Pair, picture: Picture, captions: Captions | None, places: Places) -> Subject:
    """A pair, and what the page says of it."""
    image, text = pair
    record = index.record(text)
    words = words_of(record, f"caption {index.texts[text]} of {index.images[index.owner[text]]}")
    caption = captions[index.texts[text]] if captions else record.get("raw") or " ".join(words.labels)
    label, own = bare(index.images[image]), index.owner[text]
    notes = [f"a wrong pair: the caption is of {bare(index.images[own])}"] if own != image else []
    notes += [told] if (told := places.of(index, text)) else []
    names = [f"picture {label}", f"caption {index.texts[text]}"]
    return Subject(image, text, label, caption, words, picture, names, notes)


def write_attention(args: argparse.Namespace) -> Path:
    """Open the run, watch the pairs, and write the page."""
    args.run_dir = run_at(args.run_dir)
    run_of_folder, checkpoint = open_run(args)
    output = args.output or args.run_dir / "attention.html"
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; name a file in it")
    if not output.resolve().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it, or name another")
    parts, split = open_parts(run_of_folder, checkpoint, args.split)
    drawing = drawing_of(parts.matcher)
    index = split.index
    pictures = Pictures(args.pictures, SIDE, files_for(index.sources[0].texts.folder, args.captions, index.images))
    pairs = find_pairs(args.pairs, index) if args.pairs else draw_pairs(args.count, args.seed, index)
    shown = pictures_of(pictures, pairs, index)
    places = Places.find(args.run_dir, args.split, parts, index)
    scores = Scores(np.empty((0, 0)), index.images, index.texts, index.owner)
    captions = Captions.from_file(args.captions, scores) if args.captions else None
    subjects = [subject_of(index, pair, shown[pair[0]], captions, places) for pair in pairs
                if pair[0] in shown]
    source = index.sources[0]
    facts = [f"{args.split} split", f"checkpoint {checkpoint.name}", f"texts {source.texts.folder}",
             f"images {source.images.path}",
             *([f"without pairs of {', '.join(pictures.failed)}: no readable picture"] if pictures.failed else [])]
    return write_page(output, drawing.template, name=args.run_dir.resolve().name, facts=facts, why=places.why,
                      pictures=list(shown.values()), views=drawing.views(parts.scorer, index, subjects))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="output folder of a training run")
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="weights (the run's best, else its latest)")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="where pairs are from (%(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pairs", nargs="+", metavar="IMAGE:CAPTION_ID", help="these pairs, right or wrong")
    which.add_argument("--count", type=int, default=4, metavar="N", help="or so many right ones (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which right ones are drawn (%(default)s)")
    parser.add_argument("--txt_db", metavar="STORE", help="another text store than the run's")
    parser.add_argument("--img_db", metavar="STORE", help="another image store than the run's")
    parser.add_argument("--pictures", type=Path, required=True, metavar="PLACE",
                        help="folder, searched with those in it, or tar of the pictures: IMAGE.jpg, or as the captions "
                        "file names them")
    parser.add_argument("--captions", type=Path, metavar="FILE",
                        help="captions .jsonl or Karpathy .json; else those of the text store are shown")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (RUN_DIR/attention.html)")
    return parser.parse_args(naming_runs(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and say where it is."""
    print(write_attention(parse(argv)))
    return 0


if __name__ == "__main__":
    run(main)
