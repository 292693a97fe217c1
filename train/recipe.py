"""The parts of one run, put together from its config; building does no work, and twice builds the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from config.schema import Run
from model import adapt
from model.matcher import Matcher, build
from model.objective import Objective, build_objective
from train.checkpoint import read_facts, read_weights
from train.comm import Comm
from train.optim import build_optimizer
from train.precision import Precision
from train.scorer import Scorer
from train.splits import Split, check_against_model, check_lengths, open_split, store_folders


@dataclass
class Parts:
    """What both training and evaluation need: the model where it computes, and the ranks."""

    run: Run
    comm: Comm
    device: torch.device
    matcher: Matcher
    precision: Precision
    vocab_hash: str | None

    @property
    def scorer(self) -> Scorer:
        return Scorer(self.matcher, self.comm, self.device, self.precision.autocast, self.run.eval.tokens_per_block)

    def split(self, name: str, leave_out_absent: bool = False) -> Split | None:
        """A split for evaluation (see `open_split`), fitting the model; None where the run has none of that name."""
        if not store_folders(name, self.run.data):
            return None
        split = open_split(name, self.run.data, self.comm, leave_out_absent)
        check_against_model(split, self.matcher.image_dim, self.matcher.vocab_size, self.vocab_hash,
                            self.matcher.uses_boxes)
        check_lengths(split.index, np.arange(len(split.index.texts)), self.matcher.longest_text)
        return split


@dataclass
class Recipe(Parts):
    """What is trained, on what, towards what; a regime says how (see `train.regime`)."""

    train: Split
    objective: Objective
    optimizer: torch.optim.Optimizer


def build_parts(run: Run, comm: Comm, weights: str = "", vocab_hash: str | None = None) -> Parts:
    """The model of a run, with `weights` (a checkpoint) or the run's own start."""
    device = comm.device()
    torch.manual_seed(run.seed)
    matcher = build(run.matcher)
    start = weights or run.weights.checkpoint
    if start:
        state, facts = read_weights(Path(start)), read_facts(Path(start))
        adapt.load(matcher, run.matcher.name, state, "if_missing" if weights else run.weights.rank_head_init)
        vocab_hash = facts.get("vocab_hash", vocab_hash)
    return Parts(run, comm, device, matcher.to(device), Precision(run.optim.precision, device), vocab_hash)


def build_recipe(run: Run, comm: Comm) -> Recipe:
    """Everything a training run needs.

    Raises:
        ConfigError, DataError: the parts do not fit each other; nothing has been written yet.
    """
    parts = build_parts(run, comm)
    train = open_split("train", run.data, comm)
    check_against_model(train, parts.matcher.image_dim, parts.matcher.vocab_size, parts.vocab_hash,
                        parts.matcher.uses_boxes)
    objective = build_objective(run.objective)
    optimizer = build_optimizer(run.optim, parts.matcher.named_parameters(), parts.matcher.decayed_norms)
    parts.vocab_hash = parts.vocab_hash or train.vocab_hash
    return Recipe(**vars(parts), train=train, objective=objective, optimizer=optimizer)
