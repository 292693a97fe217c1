"""The settings of a mining job and their flags."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from config.errors import ConfigError
from train.mining.screen import KINDS

OPERANDS = ("float32", "float16")
SMALLEST_TILE = 1 << 12


@dataclass(frozen=True)
class Settings:
    """How many candidates, of what, and with how much memory.

    Attributes:
        texts_per_image, images_per_text: columns of the lists.
        name: part of the lists' file names.
        operands: "float16" rounds embeddings before they are compared, as the published lists had them.
        screen: arithmetic of the tiles; "auto" is what is fastest here. It never changes a list.
        max_tile_bytes: of a tile of scores. A rank takes a few times this for its images, and whatever it is,
            (2 k + 64) x 8 bytes for each of all texts, k being images per text: their lists run until the end. When a
            late head scores pairs, their tokens take this for each thread.
        save_seconds: how often an unfinished pass is saved; 0 saves after every tile.
        same_words: leave out captions of the same ids as one of the image's own; words that the vocabulary does not
            know count as equal.
        extra_pairs: a file of more true pairs; none where empty.
        score_margin: candidates must score this much less than the positive; None lets all count.
        scores: whether to write the exact scores too.
        shortlist: texts per image that a late head scores again.
        keep_embeddings: whether the embeddings stay beside the lists.
        overwrite: whether lists of other weights or settings, which the folder holds, may be replaced.
    """

    texts_per_image: int = 300
    images_per_text: int = 60
    name: str = "train"
    operands: str = "float32"
    screen: str = "auto"
    max_tile_bytes: int = 16 << 20
    save_seconds: float = 60.0
    same_words: bool = False
    extra_pairs: Path | None = None
    score_margin: float | None = None
    scores: bool = False
    shortlist: int = 1000
    keep_embeddings: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be meant."""
        for flag, value, least in (
            ("texts_per_image", self.texts_per_image, 1),
            ("images_per_text", self.images_per_text, 1),
            ("max_tile_bytes", self.max_tile_bytes, SMALLEST_TILE),
            ("save_seconds", self.save_seconds, 0),
            ("shortlist", self.shortlist, self.texts_per_image),
        ):
            if not value >= least:  # also what is no number
                raise ConfigError(f"--{flag} {value} is too small; give at least {least}")
        if self.score_margin is not None and not math.isfinite(self.score_margin):
            raise ConfigError(f"--score_margin {self.score_margin}: give a number")
        if not self.name or "/" in self.name:
            raise ConfigError(f"--name {self.name!r} is no part of a file name; give letters and digits")

    @property
    def shortlisted_images(self) -> int:
        """Images per text that a late head scores again: in the same proportion as texts per image."""
        return -(-self.shortlist * self.images_per_text // self.texts_per_image)


def flags(parser: ArgumentParser) -> None:
    """The flags of `Settings`."""
    usual = Settings()
    add = parser.add_argument
    add("--texts_per_image", type=int, default=usual.texts_per_image, metavar="N",
        help=f"candidate texts of each image (default: {usual.texts_per_image}; the published files have 2000)")
    add("--images_per_text", type=int, default=usual.images_per_text, metavar="N",
        help=f"candidate images of each text (default: {usual.images_per_text}; the published files have 400)")
    add("--name", default=usual.name, help=f"the lists are called i2t_NAME.npy, t2i_NAME.npy (default: {usual.name})")
    add("--operands", default=usual.operands, choices=OPERANDS,
        help="float16 rounds the embeddings first, as the published lists had them (default: float32)")
    add("--screen", default=usual.screen, choices=("auto", *KINDS),
        help="arithmetic of the first look at all pairs; it never changes a list (default: auto, the fastest here)")
    add("--max_tile_bytes", type=int, default=usual.max_tile_bytes, metavar="BYTES",
        help="of a tile of scores; a rank takes a few times this, and texts x (2 x images_per_text + 64) x 8 bytes "
        "whatever it is (default: 16 MiB)")
    add("--save_seconds", type=float, default=usual.save_seconds, metavar="S",
        help=f"how often an unfinished pass is saved, 0 = after each tile (default: {usual.save_seconds:.0f})")
    add("--leave_out_same_words", action="store_true",
        help="leave out captions of the same word ids as one of the image's own, and such images of a caption; those "
        "that differ only in words unknown to the vocabulary count as the same")
    add("--extra_pairs", type=Path, metavar="FILE",
        help="more true pairs that are no candidates: an image id, a tab and a caption id on each line")
    add("--score_margin", type=float, metavar="M",
        help="a candidate counts only where it scores at least M less than the positive (an image's best caption)")
    add("--exact_scores", action="store_true", help="write scores_i2t_NAME.npy and scores_t2i_NAME.npy too")
    add("--shortlist", type=int, default=usual.shortlist, metavar="N",
        help="late heads: texts per image found by the mean of tokens and scored again, images per text in proportion "
        f"(default: {usual.shortlist})")
    add("--keep_embeddings", action="store_true", help="leave img_embs_NAME.npy and cap_embs_NAME.npy beside the lists")
    add("--overwrite", action="store_true", help="replace lists of other weights or settings that the folder holds")


def settings_of(args: Namespace) -> Settings:
    """The settings that a command line asks for; raises ConfigError for what cannot be meant."""
    return Settings(
        args.texts_per_image, args.images_per_text, args.name, args.operands, args.screen, args.max_tile_bytes,
        args.save_seconds, args.leave_out_same_words, args.extra_pairs, args.score_margin, args.exact_scores,
        max(args.shortlist, args.texts_per_image), args.keep_embeddings, args.overwrite,
    )
