"""Training on batches of items: all other items of the global batch are negatives, offline ones may join."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from data.batches.batch import Batch
from data.batches.candidates import open_candidates
from data.batches.items import Items
from data.batches.offline_negatives import Offline
from data.batches.plan import ItemPlan, Plan
from data.batches.prefetch_buffer import Capacity
from data.draws import key
from model.matcher import Matcher, MatchOut, OfflineScores, Side
from model.objective import Term
from model.parts.layers import upcast
from train.assembly.recipe import Recipe
from train.distributed.collectives import all_gather_rows, all_gather_side, synchronise_norms
from train.distributed.comm import Comm
from train.loop.collapse import CollapseDetector, suggest_gentler
from train.loop.false_negatives import find_false_negatives, mask_false_negatives
from train.loop.regime import Pass, Regime
from train.metrics.clock import Clock
from train.metrics.journal import Journal
from train.mining.job import mine
from train.mining.manifest import LEFT_OUT
from train.mining.settings import Settings
from train.scoring.autocast import Autocast

Sides = tuple[Side, Side]


class BatchRegime(Regime):
    """Items, captions with their images, all in one pass; negatives are searched among those of all ranks."""

    offers = frozenset({"items"})

    def __init__(self, recipe: Recipe) -> None:
        """Raises ConfigError or DataError where the run does not fit its stores or its candidates."""
        super().__init__(recipe)
        run, index = self.run, recipe.train.index
        self.false_negatives = find_false_negatives(index, run)
        self.items = Items(index, run.data.max_txt_len, run.seed, self._offline(run.negatives.offline))
        self.anchors = self.items.anchors
        self.parts, self.passes = self.anchors_per_update, 1
        self.collapse = CollapseDetector(run, 1 / self.anchors_per_update, suggest_gentler(run.objective, ""))
        self.capacity = Capacity.of_items(index, self.items.sets * -(-self.anchors_per_update // self.comm.size))
        if self.items.offline is not None:
            self.offers = self.offers | {"offline"}
        self._mining = self._same_rules() if run.negatives.refresh_every else Settings()
        synchronise_norms(recipe.matcher, recipe.comm)
        self.check(self.anchors if self.items.offline is None else np.arange(len(index.texts)))

    def _offline(self, folder: str) -> Offline | None:
        if not folder:
            return None
        if "offline" not in self.recipe.objective.needs:
            name = self.run.objective.name
            raise ConfigError(f"offline={folder}: objective {name} takes no offline negatives; leave it out, or "
                              "choose another (--objective quintuplet)")
        wanted, index = self.run.negatives, self.recipe.train.index
        candidates = open_candidates(Path(folder), index, *self._widths)
        drawn_from = wanted.offline_range, wanted.offline_rank_ratio, wanted.rank_coupling
        return Offline(index, candidates, *drawn_from, self.run.seed, self.false_negatives)

    def warning(self, step: int, values: dict[str, float]) -> str:
        if values.get("negative_weights", 0) > 0:
            return "some adaptive weights are negative and reward violations (see clamp_weights, detach_weights)"
        plateaus = self.plateaus(step)
        paid = {name: values[name] / self.anchors_per_update for name in plateaus}
        recall = (values["batch_r1_i"] + values["batch_r1_t"]) / 2
        return self.collapse.warning(step, paid, plateaus, recall)

    def prepare(self, step: int, folder: Path, journal: Journal) -> int:
        """Mine candidates anew, with the weights of the moment, where `refresh_every` epochs have gone by."""
        epochs = self.run.negatives.refresh_every
        every = epochs * -(-len(self.anchors) // self.anchors_per_update) or self.run.optim.num_train_steps
        mined_at = step // every * every
        if mined_at:
            self._renew(folder / "offline" / f"step-{mined_at:08d}", step == mined_at, journal)
        offline = self.items.offline
        if offline is not None and not offline.candidates.checked:
            journal.say("no manifest tells which stores the offline candidates were mined over: their order is trusted")
        return mined_at + every

    def _renew(self, folder: Path, now: bool, journal: Journal) -> None:
        """Draw from the lists in `folder`, which are mined `now` or were when the run came by before."""
        run, index = self.run, self.recipe.train.index
        if now:
            mine(self.recipe, index, folder, self._mining, folder.name, journal)
        elif not folder.exists():
            raise DataError(f"{folder}: the candidates that were mined here are gone, and with them the way to go on; "
                            "put the folder back, or resume from a checkpoint before it")
        self.items = Items(index, run.data.max_txt_len, run.seed, self._offline(str(folder)))

    def _same_rules(self) -> Settings:
        """How to mine as the first candidates were mined.

        Raises:
            ConfigError: a rule of theirs cannot be followed here.
        """
        assert self.items.offline is not None
        manifest = self.items.offline.candidates.manifest
        if manifest.get("extra_pairs"):
            raise ConfigError("refresh_every: the first candidates leave out extra pairs, of a file that is not known "
                              "here; mine them without --extra_pairs, or set refresh_every to 0")
        return Settings(
            *self._widths, operands=manifest.get("operands", "float32"),
            same_words=manifest.get("same_words") == LEFT_OUT, score_margin=manifest.get("score_margin"),
            shortlist=max(Settings.shortlist, self._widths[0]),
            overwrite=True,  # of this step by other weights: resumed from a checkpoint before it, in another manner
        )  # fmt: skip

    @property
    def _widths(self) -> tuple[int, int]:
        """How many candidate texts of an image and images of a text are drawn from."""
        wanted = self.run.negatives
        return wanted.offline_range, -(-wanted.offline_range // wanted.offline_rank_ratio)

    def plans(self, first_slot: int) -> Iterator[ItemPlan]:
        return self.items.plans(first_slot, self.anchors_per_update, self.comm.rank, self.comm.size)

    def losses(self, plan: Plan, batch: Batch, step: int, clock: Clock) -> Pass:
        assert isinstance(plan, ItemPlan)
        recipe, size, anchors = self.recipe, self.comm.size, len(batch.images) // batch.sets
        with clock("train"):
            # For dropout that is not keyed by the items: a resume draws the same.
            torch.manual_seed(key(self.run.seed, "dropout-items", plan.slot) % 2**63)
            out = match_batch(
                recipe.matcher, batch, self.comm, recipe.precision.autocast, self.run.negatives.separate_passes
            )
            out = mask_false_negatives(out, plan, self.false_negatives, self.comm)
            terms = recipe.objective(out, batch, step / self.run.optim.num_train_steps)
            # A mean over this rank's items weighs as much as there are of them.
            own = {name: value * (anchors / self.anchors_each) for name, value in out.aux.items()}
            total = total_loss(terms, own, size)
        logged = {name: term.value.detach() for name, term in terms.items()}
        logged |= {name: value.detach() for name, value in own.items()}
        logged["loss"] = total_loss(terms, own, 1).detach()
        assert out.positive is not None
        logged |= batch_recall(next(iter(out.scores.values())).detach(), out.with_false_negatives(out.positive))
        return Pass(total, logged, anchors, anchors * len(out.scores[next(iter(out.scores))]))

    def headline(self, values: dict[str, float]) -> dict[str, float]:
        return {"batch R@1": (values["batch_r1_i"] + values["batch_r1_t"]) / 2}


def match_batch(matcher: Matcher, batch: Batch, comm: Comm, autocast: Autocast, separate: bool = True) -> MatchOut:
    """Training-mode forward of this rank's items against those of all ranks.

    Each rank scores its own images against the texts of all, and gets the rows of the others: every pair is scored
    once. What is then computed of the scores is the same on all ranks.

    Args:
        separate: encode each set of the batch on its own, so that what a model averages over a batch is averaged over
            a set.
    """
    with autocast():
        (images, texts), *others = encode_sets(matcher, batch, separate)
        everyone = all_gather_side(texts, comm, "texts")
        scores = all_gather_rows(matcher.score(images, everyone), comm, "scores", shared=True)
        aux = matcher.own_losses(images, batch)
        offline = None
        if others:
            pairs = score_offline_pairs(matcher, (images, texts), *others)
            text, image, both, kin = all_gather_rows(pairs, comm, "offline", shared=True).unbind(1)
            offline = OfflineScores(text, image, both, kin, find_related(batch, comm))
    true, keys = identities(batch, comm)
    return MatchOut({next(iter(matcher.heads)): scores}, images, texts, aux, None, true, offline, keys)


def encode_sets(matcher: Matcher, batch: Batch, separate: bool) -> list[Sides]:
    """The two sides of each set."""
    items = len(batch.images) // batch.sets
    cuts = [(start, start + items) for start in range(0, len(batch.images), items)]
    if separate:
        sets = [(batch.images.slice(*cut), batch.texts.slice(*cut)) for cut in cuts]
        return [(matcher.encode_image(images), matcher.encode_text(texts)) for images, texts in sets]
    images, texts = matcher.encode_image(batch.images), matcher.encode_text(batch.texts)
    return [(images.slice(*cut), texts.slice(*cut)) for cut in cuts]


def score_offline_pairs(matcher: Matcher, matching: Sides, off: Sides, off2: Sides) -> Tensor:
    """Scores `[items, 4]` in the order of `OfflineScores`."""
    (image, text), (image_off, text_off), (image_off2, text_off2) = matching, off, off2
    each = torch.arange(len(image))
    pairs = [(image, text_off), (image_off, text), (image_off, text_off), (image_off2, text_off2)]
    return torch.stack([upcast(matcher.score_pairs(*sides, each, each)) for sides in pairs], 1)


def identities(batch: Batch, comm: Comm) -> tuple[Tensor, Tensor]:
    """Who is who among all ranks' items: whether the text belongs to the image, and what draws are keyed by.

    Returns:
        `[items, items]` bool where the batch lies, and `[items]` int64 on the host.
    """
    items = len(batch.images) // batch.sets
    assert batch.keys is not None
    numbers = comm.gather(torch.stack([batch.number[:items], batch.owner[:items], batch.keys], 1), "numbers")
    image, owner = numbers[:, :2].to(batch.images.device, non_blocking=True).unbind(1)
    return image[:, None] == owner, numbers[:, 2]


def find_related(batch: Batch, comm: Comm) -> Tensor:
    """`[items]` bool over all ranks' items: the offline text belongs to the offline image."""
    items = len(batch.images) // batch.sets
    same = (batch.number == batch.owner)[items : 2 * items]
    return comm.gather(same.to(torch.uint8), "related").to(batch.images.device, non_blocking=True).bool()


def total_loss(terms: dict[str, Term], own: dict[str, Tensor], size: int) -> Tensor:
    """What one of `size` ranks sends backward, so that the mean of their gradients is that of the whole loss.

    All ranks have the same terms, of which each has its own part of the gradient; the matcher's own losses are means
    over a rank's items.
    """
    parts = [term.share(1, 1) * size for term in terms.values() if term.counted] + list(own.values())
    return torch.stack(parts).sum()


def batch_recall(scores: Tensor, barred: Tensor) -> dict[str, Tensor]:
    """How often an item's match is ahead of all negatives of the batch, from images and from texts.

    Args:
        barred: `[n, n]` bool, the pairs that are no negatives.
    """
    match = scores.diagonal()
    rivals = scores.masked_fill(barred, -torch.inf)
    return {f"batch_r1_{way}": (match > rivals.amax(dim)).float().mean() for way, dim in (("i", 1), ("t", 0))}
