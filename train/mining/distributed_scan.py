"""The scan by many ranks: each scans some images, and their findings are joined through files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from train.distributed.comm import Comm
from train.metrics.clock import Clock
from train.metrics.throughput import describe_pace
from train.mining.exact import Shortlists
from train.mining.lists import Task
from train.mining.running_top_k import nth_largest
from train.mining.scan import Found, Scan, tile_layouts
from train.mining.screen import Screen
from train.mining.storage import load_some, load_tensors, save_tensors, saving
from train.mining.tile_layout import TileLayout


@dataclass(frozen=True)
class DistributedScan:
    """A task shared out over ranks; `folder` holds what was found and where an unfinished pass goes on.

    Attributes:
        said: called with a line about how far it is.
        clock: counts the pairs.
        save_seconds: how often the state is saved; 0 after every tile.
    """

    task: Task
    comm: Comm
    screen: Screen
    tile_bytes: int
    folder: Path
    save_seconds: float
    said: Callable[[str], object]
    clock: Clock = field(default_factory=Clock)

    @property
    def rows(self) -> range:
        """This rank's images."""
        rank, size, images = self.comm.rank, self.comm.size, len(self.task.images)
        return range(images * rank // size, images * (rank + 1) // size)

    def run(self) -> None:
        """Take in all tiles of this rank's images; returns once all ranks have."""
        ends, state = self._columns_of(self.comm.rank), self.folder / f"rank-{self.comm.rank}-state.safetensors"
        with saving(self.folder):
            self.folder.mkdir(exist_ok=True)
        if not ends.exists():
            scan = self._scan()
            if state.exists():
                scan.restore(load_tensors(state))
                self.said(f"going on after {scan.block * scan.texts.cut.parts + scan.tile} of {scan.tiles} tiles")
            self._take_in(scan, state)
            found = {f"{part}.{name}": value for part in range(scan.texts.cut.parts)
                     for name, value in pack_found(scan.columns(part)).items()}
            save_tensors(ends, found)
        state.unlink(missing_ok=True)
        self.comm.barrier("scanned")

    def _scan(self) -> Scan:
        return self.task.scan(self.rows, self.screen, self.tile_bytes)

    def _take_in(self, scan: Scan, state: Path) -> None:
        saved, told = time.monotonic(), -1
        while not scan.done:
            block = scan.block
            self.clock.count("pairs", len(scan.images.cut.rows(block)) * len(scan.texts.cut.rows(scan.tile)))
            found = scan.step()
            if found is not None:
                save_tensors(self._rows_of(block), pack_found(found))
            done = scan.block * scan.texts.cut.parts + scan.tile
            if done * 10 // scan.tiles != told:
                told = done * 10 // scan.tiles
                self.said(f"{done * 100 // scan.tiles} % of {scan.tiles} tiles  {describe_pace(self.clock.so_far())}")
            if time.monotonic() - saved >= self.save_seconds:
                save_tensors(state, scan.state())
                saved = time.monotonic()

    def _rows_of(self, block: int) -> Path:
        return self.folder / f"rank-{self.comm.rank}-images-{block:05d}.safetensors"

    def _columns_of(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}-texts.safetensors"

    def of_images(self) -> Iterator[Found]:
        """What was found for this rank's images, once it has run."""
        cut = self._cuts()[0]
        for block in range(cut.parts):
            yield unpack_found(load_tensors(self._rows_of(block)), cut.rows(block))

    def of_texts(self) -> Iterator[Found]:
        """What all ranks found for this rank's share of the texts."""
        cut, most = self._cuts()[1], None if self.task.ceilings else self.task.wanted[1]
        files = [self._columns_of(rank) for rank in range(self.comm.size)]
        for part in range(self.comm.rank, cut.parts, self.comm.size):
            names = [f"{part}.{name}" for name in NAMES]
            held = [dict(zip(NAMES, load_some(file, names), strict=True)) for file in files]
            found = [unpack_found(one, cut.rows(part)) for one in held]
            yield found[0] if len(found) == 1 else merge_found(found, most)

    def _cuts(self) -> tuple[TileLayout, TileLayout]:
        return tile_layouts(len(self.task.images), len(self.task.texts), self.rows, self.tile_bytes)


NAMES = ("counts", "chosen", "lower", "upper")


def pack_found(found: Found) -> dict[str, Tensor]:
    """As named tensors."""
    return {"counts": found.lists.counts, "chosen": found.lists.chosen.int(), "lower": found.lower,
            "upper": found.upper}


def unpack_found(tensors: dict[str, Tensor], rows: range) -> Found:
    """Findings that were `pack_found`."""
    lists = Shortlists.of(tensors["counts"], tensors["chosen"].long())
    return Found(rows, lists, tensors["lower"], tensors["upper"])


def merge_found(parts: list[Found], most: int | None) -> Found:
    """What several ranks found for the same queries, without what is surely beyond the best `most`."""
    query = torch.cat([part.lists.queries for part in parts])
    query, order = query.sort(stable=True)
    chosen = torch.cat([part.lists.chosen for part in parts])[order]
    lower, upper = (torch.cat([getattr(part, name) for part in parts])[order] for name in ("lower", "upper"))
    lists = Shortlists.of(torch.bincount(query, minlength=len(parts[0].lists)), chosen)
    if most is None:
        return Found(parts[0].rows, lists, lower, upper)
    table = lower.new_full((len(lists), int(lists.counts.max())), -torch.inf)
    table[query, torch.arange(len(query)) - lists.offsets[query]] = lower
    kept = upper >= nth_largest(table, lists.counts.clamp(max=most))[query]
    counts = torch.bincount(query[kept], minlength=len(lists))
    return Found(parts[0].rows, Shortlists.of(counts, chosen[kept]), lower[kept], upper[kept])
