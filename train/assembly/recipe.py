"""The parts of one run, built from its config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from config.errors import ConfigError
from config.schema import Run
from config.sections import Data
from data.batches.augment import WordAugment
from data.stores.picture_store import PictureView
from model.loading import RankHead
from model.matcher import Matcher, build
from model.objective import Objective, build_objective
from train.assembly.optim import build_optimizer
from train.assembly.precision import Precision
from train.assembly.splits import Split, check_against_model, check_lengths, open_split, store_folders, text_settings
from train.assembly.towers import load_towers, resolve_towers
from train.assembly.weights import LoadReport, check_resumable, load_for_evaluation, load_initial_weights
from train.distributed.comm import Comm
from train.distributed.devices import choose_device
from train.scoring.scorer import Scorer
from train.scoring.two_stage import check_two_stage


@dataclass
class Parts:
    """What both training and evaluation need: the model where it computes, and the ranks."""

    run: Run
    comm: Comm
    device: torch.device
    matcher: Matcher
    precision: Precision
    vocab_hash: str | None
    notes: tuple[str, ...]
    """What is to be said of the weights."""

    @property
    def scorer(self) -> Scorer:
        tokens, threads = self.run.eval.tokens_per_block, max(1, self.run.data.n_workers)
        return Scorer(self.matcher, self.comm, self.device, self.precision.autocast, tokens, threads)

    def split(self, name: str, leave_out_absent: bool = False) -> Split | None:
        """A split for evaluation (see `open_split`), fitting the model; None where the run has none of that name."""
        if not store_folders(name, self.run.data):
            return None
        pictures = whole_pictures(self.matcher, self.run.data)
        split = open_split(name, self.run.data, self.comm, leave_out_absent, pictures)
        self.check(split)
        texts, longest = np.arange(len(split.index.texts)), self.matcher.longest_text
        check_lengths(split.index, texts, longest, text_settings(self.run.matcher))
        return split

    def check(self, split: Split) -> None:
        """Raise DataError where a split does not fit the model."""
        model = self.matcher
        sizes = model.image_dim, model.vocab_size
        check_against_model(split, *sizes, self.vocab_hash, model.uses_boxes, text_settings(self.run.matcher))


@dataclass
class Recipe(Parts):
    """What is trained, on what, towards what; a regime in `train.loop` says how. `augment` alters its texts."""

    train: Split
    augment: WordAugment | None
    objective: Objective
    optimizer: torch.optim.Optimizer


def build_parts(
    run: Run, comm: Comm, weights: str = "", vocab_hash: str | None = None, resumed: Path | None = None,
    rank_head: RankHead = "if_missing",
) -> Parts:  # fmt: skip
    """The model of a run, with `weights` (a checkpoint that is to be measured) or the run's own start.

    Args:
        resumed: a checkpoint whose weights will be put into the model later, so that neither pre-trained towers nor
            the weights that the run started from are asked for again.
        rank_head: when UNITER's rank head is taken from the matching head of `weights`.

    Raises:
        ConfigError, DataError: the weights cannot be read, or are not of this run's matcher.
    """
    device = choose_device(run.cluster.device, comm)
    trained = Path(weights) if weights else resumed
    run = resolve_towers(run, trained)
    torch.manual_seed(run.seed)
    matcher = build(run.matcher)
    if trained is None:
        load_towers(matcher, run)
    check_two_stage(run.eval.two_stage, matcher)
    brought = LoadReport(vocab_hash, ())
    if weights:
        brought = load_for_evaluation(matcher, run, Path(weights), rank_head)
    elif resumed is not None:
        brought = LoadReport(check_resumable(resumed, run), ())
    elif run.weights.checkpoint:
        brought = load_initial_weights(matcher, run)
    precision = Precision(run.optim.precision, device)
    return Parts(run, comm, device, matcher.to(device), precision, brought.vocab_hash or vocab_hash, brought.notes)


def build_recipe(run: Run, comm: Comm, resumed: Path | None = None) -> Recipe:
    """Everything a training run needs, which may be going on from a checkpoint.

    Raises:
        ConfigError, DataError: the parts do not fit each other; nothing has been written yet.
    """
    parts = build_parts(run, comm, resumed=resumed)
    train = open_split("train", run.data, comm, pictures=training_pictures(parts.matcher, run.data))
    parts.check(train)
    augment = WordAugment.of(train.index, run.data.word_augment) if run.data.word_augment else None
    objective = build_objective(run.objective)
    optimizer = build_optimizer(run.optim, parts.matcher.named_parameters(), parts.matcher.decayed_norms)
    parts.vocab_hash = parts.vocab_hash or train.vocab_hash
    return Recipe(**vars(parts), train=train, augment=augment, objective=objective, optimizer=optimizer)


def whole_pictures(matcher: Matcher, data: Data) -> PictureView | None:
    """How an evaluation looks at pictures, for a matcher that takes them."""
    return PictureView(matcher.image_dim, cache_mb=data.picture_cache_mb) if matcher.takes_pictures else None


def training_pictures(matcher: Matcher, data: Data) -> PictureView | None:
    """How training looks at pictures, for a matcher that takes them; raises ConfigError for crops of anything else.

    Its reading processes would each keep the pixels of their own, so none does.
    """
    if matcher.takes_pictures:
        return PictureView(matcher.image_dim, data.smallest_crop)
    if data.smallest_crop:
        raise ConfigError(
            f"smallest_crop={data.smallest_crop}: this matcher takes region features, which cannot be cropped; set it "
            "to 0, or choose a matcher that takes pictures (--matcher laps)"
        )
    return None
