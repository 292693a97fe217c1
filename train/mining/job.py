"""A mining job: from embeddings to both lists, on any number of ranks, resumable.

What is unfinished lies in a folder below that of the lists (see `place`), where only a job of the same facts goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.errors import ConfigError
from data.batches.pairs import Array, PairIndex
from data.files import read_json, write_json
from train.assembly.recipe import Parts
from train.distributed.comm import Comm
from train.metrics.clock import Clock
from train.metrics.journal import Journal
from train.metrics.throughput import report_throughput
from train.mining.distributed_scan import DistributedScan
from train.mining.embed import IMAGES, TEXTS, Embedder
from train.mining.filters import Ceilings, Excluded, extra_pairs, positive_pairs, same_word_pairs
from train.mining.lists import Direction, Task, Write, finish_lists, row_writer
from train.mining.manifest import GivenEmbeddings, ModelEmbeddings, build_facts, checksum
from train.mining.output_folder import LISTS, REMEDY, UNFINISHED, OutputFolder
from train.mining.rerank import Reranker
from train.mining.screen import Screen, choose_screen
from train.mining.settings import Settings
from train.mining.storage import open_memmap, reserve, saving
from train.scoring.scorer import Scorer

SCREEN = "screen.json"
Said = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """Mines into `folder`.

    Attributes:
        owner: `[texts]`, the image of each.
        index: the stores behind the embeddings; None where embeddings were given without.
        said: called with lines about how far it is, on every rank.
    """

    comm: Comm
    device: torch.device
    folder: Path
    settings: Settings
    source: GivenEmbeddings | ModelEmbeddings
    owner: Array
    index: PairIndex | None
    said: Said

    @cached_property
    def clock(self) -> Clock:
        """How long this rank reads, and how many pairs it compares."""
        return self.source.scorer.clock if isinstance(self.source, ModelEmbeddings) else Clock(self.comm.progress)

    @property
    def _work(self) -> Path:
        return self.folder / UNFINISHED

    def run(self) -> None:
        """Mine, or do nothing where the same lists are there already.

        Raises:
            ConfigError: the folder holds other lists and they are not to be overwritten, or the matcher cannot be
                mined with.
            DataError: a file or embedding is unfit, or a query has too few candidates.
            Failure: the disk is full; what is done is kept.
        """
        late = isinstance(self.source, ModelEmbeddings) and is_late(self.source.scorer)
        facts = build_facts(self.settings, self.source, self.owner, self.index, late, self.comm)
        place = OutputFolder(self.folder, self.settings.name, facts)
        place.check(self.settings.overwrite)
        # Every rank has looked before the first one writes: sharing waits for all.
        if self.comm.all_gather_object(place.is_done())[0]:
            self.said(f"{self.folder}: mined before by the same weights")
            if self.comm.rank == 0:
                place.clear()
            return
        if self.comm.rank == 0:
            place.claim(self.said)
        if not self.comm.all_gather_object(self.comm.rank == 0 and place.is_whole())[0]:
            self._make(place, late)
        if self.comm.rank == 0:
            place.publish()
        self.comm.barrier("published")

    def _make(self, place: OutputFolder, late: bool) -> None:
        """Both lists and what is kept beside them, whole on return, in the unfinished folder."""
        images, texts = self._embeddings(late)
        task = self._task(images, texts, late)
        task.check()
        lists = self._mine_late(task) if late else self._mine(task, "")
        if self.comm.rank == 0:
            self._note(place, lists)

    def _note(self, place: OutputFolder, lists: list[Path]) -> None:
        """Tell what was made, and of what."""
        rows = (len(open_memmap(path)) for path in lists)
        manifest = place.facts | dict(zip(("images", "texts"), rows, strict=True))
        made = dict(zip(lists, map(place.of, LISTS), strict=True))
        if self.settings.scores:
            made |= {self._work / f"scores_{name}.npy": place.of(f"scores_{name}") for name in LISTS}
        if isinstance(self.source, ModelEmbeddings):
            kept = self._work / IMAGES, self._work / TEXTS
            manifest |= {"checkpoint": self.source.origin, "embeddings": [checksum(path) for path in kept]}
            if self.settings.keep_embeddings:
                made |= {path: place.of(path.stem) for path in kept}
        place.finish(made, manifest)

    def _embeddings(self, late: bool) -> tuple[Tensor, Tensor]:
        """`[n, d]`, `[m, d]`, memory-mapped."""
        if isinstance(self.source, GivenEmbeddings):
            paths = self.source.images, self.source.texts
        else:
            assert self.index is not None
            Embedder(self.source.scorer, self.index, self._work, late, self.said, self.settings.save_seconds).write()
            paths = self._work / IMAGES, self._work / TEXTS
        images, texts = (as_operands(open_memmap(path), self.settings.operands) for path in paths)
        return images, texts

    def _task(self, images: Tensor, texts: Tensor, late: bool) -> Task:
        one = self.settings
        pairs = [positive_pairs(self.owner)]
        if one.same_words:
            pairs.append(same_word_pairs(require_stores(self.index, "--leave_out_same_words")))
        if one.extra_pairs:
            pairs.append(extra_pairs(one.extra_pairs, require_stores(self.index, "--extra_pairs")))
        excluded = Excluded.of(*pairs)
        wanted = one.texts_per_image, one.images_per_text
        task = Task(images, texts, wanted, excluded)
        if late or one.score_margin is None:
            return task
        return replace(task, ceilings=Ceilings.below(images, texts, self.owner, one.score_margin))

    def _mine(self, task: Task, prefix: str) -> list[Path]:
        """Both lists of a dot head, whole on return, as unfinished files."""
        screen = self._screen(task)
        # A state fits only the same ranks and tiles; the lists are the same whatever these are.
        place = self._work / f"{prefix}pass-{self.comm.size}-{self.settings.max_tile_bytes}-{screen.kind}"
        one = DistributedScan(
            task,
            self.comm,
            screen,
            self.settings.max_tile_bytes,
            place,
            self.settings.save_seconds,
            self.said,
            self.clock,
        )
        one.run()
        scored = self.settings.scores and not prefix
        for direction, name, found in zip(
            Direction.both(task), LISTS, (one.of_images(), one.of_texts()), strict=True
        ):
            with self._writing(prefix + name, (len(direction.queries), direction.most), scored) as write:
                finish_lists(direction, found, self.device, self.settings.max_tile_bytes, write, scored)
        self.comm.barrier(f"{prefix}finished")
        return [self._work / f"{prefix}{name}.npy" for name in LISTS]

    def _screen(self, task: Task) -> Screen:
        """The screen that rank 0 chooses, or chose when this job was begun; looking at all rows takes a while."""
        noted, asked = self._work / SCREEN, self.settings.screen
        told: list[Any] = []
        if self.comm.rank == 0:
            told = read_json(noted, REMEDY) if noted.exists() else []
            if told[:1] != [asked]:
                one = choose_screen(task.images, task.texts, asked, self.device)
                told = [asked, one.kind, one.image_scale, one.text_scale]
                with saving(noted):
                    write_json(noted, told)
        _, kind, *scales = self.comm.all_gather_object(told)[0]
        return choose_screen(task.images, task.texts, kind, self.device, (scales[0], scales[1]))

    @contextmanager
    def _writing(self, name: str, shape: tuple[int, int], scored: bool) -> Iterator[Write]:
        """Gives what writes rows into the unfinished file of a list, and of its scores."""
        files = {self._work / f"{name}.npy": np.int32} | (
            {self._work / f"scores_{name}.npy": np.float32} if scored else {}
        )
        if self.comm.rank == 0:
            for path, kind in files.items():
                reserve(path, shape, kind)
        self.comm.barrier(f"{name} reserved")
        arrays = [open_memmap(path, writable=True) for path in files]
        yield row_writer(*arrays)
        for array in arrays:
            array.flush()

    def _mine_late(self, task: Task) -> list[Path]:
        """Both lists of a late head: short-lists by the mean of tokens, then scores of pairs."""
        assert isinstance(self.source, ModelEmbeddings)
        assert self.index is not None
        one = self.settings
        left = [int(counts.min()) for counts in task.left()]
        wanted = min(one.shortlist, left[0]), min(one.shortlisted_images, left[1])
        shortlists = self._mine(replace(task, wanted=wanted), "short_")
        reranker = Reranker(self.source.scorer, self.index, self._work, one.max_tile_bytes)
        if one.score_margin is not None:
            best, own = reranker.positives()
            task = replace(task, ceilings=Ceilings(best - one.score_margin, own - one.score_margin))
        for direction, name, path in zip(Direction.both(task), LISTS, shortlists, strict=True):
            self.said(f"{name}: scoring {len(direction.queries)} short-lists")
            with self._writing(name, (len(direction.queries), direction.most), one.scores) as write:
                reranker.order(name == LISTS[0], open_memmap(path), direction, write)
        self.comm.barrier("ordered")
        return [self._work / f"{name}.npy" for name in LISTS]


def is_late(scorer: Scorer) -> bool:
    """Whether the matcher compares tokens; raises ConfigError where it can only look at pairs together."""
    name, kind = next(iter(scorer.matcher.heads.items()))
    if kind == "joint":
        raise ConfigError(f"head {name} of this matcher sees each pair together, so there is nothing to mine with; "
                          "mine with vsrn or bfan (--matcher)")
    return kind == "late"


def as_operands(values: Array, kind: str) -> Tensor:
    """Embeddings as a tensor of the type that they are compared in; float64 ones, as some were published, rounded."""
    if kind == "float16":
        return torch.from_numpy(np.asarray(values, np.float16))
    return torch.from_numpy(values.astype(np.float32) if values.dtype == np.float64 else values)


def require_stores(index: PairIndex | None, flag: str) -> PairIndex:
    """The stores; raises ConfigError where a flag wants them and there are none."""
    if index is None:
        raise ConfigError(f"{flag} looks captions up in the stores; name them with train_txt_dbs and train_img_dbs")
    return index


def mine(parts: Parts, index: PairIndex, folder: Path, settings: Settings, origin: str, journal: Journal) -> None:
    """Mine a split with the weights of the moment into `folder`, in the middle of a training run too.

    Args:
        origin: what the manifest calls these weights.

    Raises:
        ConfigError, DataError, Failure: see `Job.run`.
    """
    matcher, source = parts.matcher, ModelEmbeddings(parts.scorer, origin, parts.run.optim.precision)
    was_training = matcher.training
    try:
        job = Job(parts.comm, parts.device, folder, settings, source, index.owner, index, journal.say)
        with report_throughput("mine", str(folder), job.clock, job.comm, journal):
            job.run()
    finally:
        matcher.train(was_training)
