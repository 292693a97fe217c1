"""One pass over images x texts, tile by tile, that yields the short-lists of both directions.

Each score is computed once for both. What is short-listed surely holds the best candidates; exact.py orders them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from train.mining.exact import Shortlists
from train.mining.filters import Ceilings, Excluded
from train.mining.full_search import Entries, search_fully
from train.mining.running_top_k import RunningTopK, rank_at
from train.mining.screen import Screen, Slack
from train.mining.tile_layout import ScreenedSide, TileLayout, TileMask

HOST = torch.device("cpu")
SCORE_BYTES = 4
REDONE = 4
"""Queries that are searched again take this many times the bytes of a tile at once."""
TIGHTENED = 4
"""Floors are raised after this many times as many tiles as before."""


@dataclass(frozen=True)
class Found:
    """Short-lists of the queries `rows`, and between which values each exact score surely is; on the host.

    There they may wait in great numbers, and in files.
    """

    rows: range
    lists: Shortlists
    lower: Tensor
    upper: Tensor


def tile_shape(images: int, texts: int, tile_bytes: int) -> tuple[int, int]:
    """Most images and texts of a tile of `tile_bytes` float32 scores: twice as high as wide.

    A part of the texts is read and rounded again for each block of images, hence the height.
    """
    scores = tile_bytes // SCORE_BYTES
    height = min(images, 2 * isqrt(scores))
    return height, max(1, min(texts, scores // height))


def tile_layouts(images: int, texts: int, rows: range, tile_bytes: int) -> tuple[TileLayout, TileLayout]:
    """How the images `rows` and all texts are cut; the texts alike on all ranks."""
    height, width = tile_shape(images, texts, tile_bytes)
    return TileLayout.of(rows, height), TileLayout.of(range(texts), width, aligned=True)


class Scan:
    """The pass over the images `rows` and all texts; it can stop after any tile and go on from its `state`.

    Attributes:
        block, tile: which tile comes next.
    """

    def __init__(
        self,
        images: Tensor,
        texts: Tensor,
        rows: range,
        wanted: tuple[int, int],
        excluded: Excluded,
        screen: Screen,
        tile_bytes: int,
        ceilings: Ceilings | None = None,
    ) -> None:
        """Prepare; nothing is multiplied yet.

        Args:
            images: `[n, d]`, texts: `[m, d]`: float32.
            wanted: texts per image, images per text.
        """
        of_images, of_texts = tile_layouts(len(images), len(texts), rows, tile_bytes)
        self.images = ScreenedSide(images, of_images, screen.image_scale, screen, wanted[0])
        self.texts = ScreenedSide(texts, of_texts, screen.text_scale, screen, wanted[1])
        self.screen, self._bytes, self._ceilings = screen, tile_bytes, ceilings
        self._excluded = excluded.within(rows)
        self._holes = TileMask(self._excluded, self.images.cut, self.texts.cut, screen.device)
        self.block, self.tile = 0, 0
        padded = self.images.cut.padded, self.texts.cut.padded
        self._scores = torch.empty(padded, dtype=screen.dtype, device=screen.device)
        self._right = self.texts.buffer()
        self._left: Tensor | None = None
        self._column_lists = [self._empty(False, part) for part in range(self.texts.cut.parts)]
        self._row_lists = self._empty(True, 0)

    @property
    def done(self) -> bool:
        return self.block == self.images.cut.parts

    @property
    def tiles(self) -> int:
        """How many there are."""
        return self.images.cut.parts * self.texts.cut.parts

    def step(self) -> Found | None:
        """Take in the next tile; returns what was found for its images where it was their last one."""
        blocks, tiles = self.images.cut.parts, self.texts.cut.parts
        if self._left is None:
            self._left = self.images.part(self.block)
        scores = self._multiply(self._left)
        rows, columns = self._row_lists, self._column_lists[self.tile]
        rows.absorb(scores, self.tile, tiles, rank_at(self.images.most, (self.tile + 1) / tiles))
        first = self.images.cut.start + self.block
        columns.absorb(scores.T, first, blocks, rank_at(self.texts.most, (self.block + 1) / blocks))
        self.tile += 1
        if is_due(self.tile, tiles):
            rows.tighten(rank_at(self.images.most, self.tile / tiles))
        if is_due(self.block + 1, blocks):
            columns.tighten(rank_at(self.texts.most, (self.block + 1) / blocks))
        return self._end_of_block() if self.tile == tiles else None

    def _multiply(self, left: Tensor) -> Tensor:
        """The scores of the tile, -inf for what is no candidate."""
        scores, right = self._scores, self.texts.part(self.tile, self._right)
        self.screen.product(left, right, scores)
        scores[len(self.images.cut.rows(self.block)) :] = -torch.inf
        scores[:, len(self.texts.cut.rows(self.tile)) :] = -torch.inf
        scores.view(-1)[self._holes.of(self.block, self.tile)] = -torch.inf
        return scores

    def _end_of_block(self) -> Found:
        found = self._found(True, self.block, self._row_lists)
        self.block, self.tile, self._left = self.block + 1, 0, None
        if not self.done:
            self._row_lists = self._empty(True, self.block)
        return found

    def columns(self, part: int) -> Found:
        """What was found for a part of the texts, once the pass is done."""
        return self._found(False, part, self._column_lists[part])

    def _sides(self, by_image: bool) -> tuple[ScreenedSide, ScreenedSide]:
        return (self.images, self.texts) if by_image else (self.texts, self.images)

    def _slack(self, by_image: bool, part: int, screen: Screen) -> Slack:
        """The bound for a part's queries, padded ones included."""
        queries, pool = self._sides(by_image)
        whole = screen.slack(queries.norms, pool.norms, queries.values.shape[1])
        rows = queries.cut.rows(part)
        fixed = whole.fixed[rows.start : rows.stop : rows.step]
        return Slack(torch.nn.functional.pad(fixed, (0, queries.cut.padded - len(rows))), whole.share)

    def _empty(self, by_image: bool, part: int) -> RunningTopK:
        most = self._sides(by_image)[0].most
        slack = self._slack(by_image, part, self.screen)
        return RunningTopK.empty(2 * most + 64, slack, self._ceiling(by_image, part))

    def _ceiling(self, by_image: bool, part: int) -> Tensor | None:
        """Of a part's queries, on the screen's scale, padded ones included."""
        if self._ceilings is None:
            return None
        queries = self._sides(by_image)[0]
        rows = queries.cut.rows(part)
        whole = self._ceilings.images if by_image else self._ceilings.texts
        ceiling = whole[rows.start : rows.stop : rows.step].to(self.screen.device) * self.screen.scale
        return torch.nn.functional.pad(ceiling, (0, queries.cut.padded - len(rows)))

    def _wanted(self, by_image: bool, rows: range) -> Tensor:
        """How many each query can have at most here: a rank may hold few images."""
        queries, pool = self._sides(by_image)
        taken = self._excluded.image if by_image else self._excluded.text
        barred = np.bincount(taken, minlength=rows.stop)[rows.start : rows.stop : rows.step]
        return torch.from_numpy(np.minimum(queries.most, pool.cut.size - barred)).to(self.screen.device)

    def _found(self, by_image: bool, part: int, running: RunningTopK) -> Found:
        """The end of a list: what may be among the best, queries that must be redone included."""
        rows = self._sides(by_image)[0].cut.rows(part)
        wanted = self._wanted(by_image, rows)
        lists, values, redo = running.finish(torch.nn.functional.pad(wanted, (0, len(running.counts) - len(wanted))))
        slack = running.slack.of(lists.queries)
        entries = [(lists.queries, lists.chosen, slack.below(values), slack.above(values))]
        at_once = max(1, REDONE * self._bytes // (SCORE_BYTES * self._sides(by_image)[1].cut.size))
        entries += [self._redone(by_image, part, few, wanted[few]) for few in redo.split(at_once) if len(few)]
        query, chosen, lower, upper = (torch.cat(column) for column in zip(*entries, strict=True))
        if len(redo):
            query, order = query.sort(stable=True)
            chosen, lower, upper = chosen[order], lower[order], upper[order]
        scale = self.screen.scale
        lists = Shortlists.of(torch.bincount(query, minlength=len(rows)), chosen)
        return Found(rows, lists.to(HOST), (lower / scale).to(HOST), (upper / scale).to(HOST))

    def _redone(self, by_image: bool, part: int, few: Tensor, wanted: Tensor) -> Entries:
        """The entries of a few queries of a part, called by their place in it."""
        queries, pool = self._sides(by_image)
        rows = queries.cut.rows(part)
        names = np.asarray(rows)[few.cpu().numpy()]
        image, text = self._excluded.image, self._excluded.text
        barred, candidate = (image, text) if by_image else (text, image)
        inside = np.isin(barred, names)
        pairs = np.searchsorted(names, barred[inside]), candidate[inside]
        ceiling = self._ceiling(by_image, part)
        query, *found = search_fully(queries, pool, names, pairs, wanted, None if ceiling is None else ceiling[few])
        return few[query], found[0], found[1], found[2]

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs."""
        place = torch.tensor([self.block, self.tile])
        lists = {f"texts.{part}": running for part, running in enumerate(self._column_lists)}
        named = lists | {"images": self._row_lists}
        packed = {f"{name}.{key}": value for name, one in named.items() for key, value in one.packed().items()}
        return packed | {"place": place}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of a scan of the same arguments."""
        self.block, self.tile = state["place"].tolist()
        self._left = None
        if not self.done:
            self._row_lists = self._empty(True, self.block)
            self._row_lists.unpack(state, "images.")
        for part, running in enumerate(self._column_lists):
            running.unpack(state, f"texts.{part}.")


def is_due(done: int, of: int) -> bool:
    """Whether floors are raised now that so many tiles of so many are done."""
    return done < of and (done & (done - 1)) == 0 and (done.bit_length() - 1) % (TIGHTENED.bit_length() - 1) == 0
