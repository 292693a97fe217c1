"""From short-lists to final lists: exact scores and their order, a bounded number of queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from config.errors import DataError
from data.batches.pairs import Array
from train.mining.exact import Shortlists, order_exactly, score_in_order
from train.mining.filters import Ceilings, Excluded, check_enough
from train.mining.scan import Found, Scan
from train.mining.screen import ROWS, Screen

ENTRY_BYTES = 40
"""Of a candidate in a table: scores and names, sorted and not."""
ROOM = 16
"""The final stage takes this many times the bytes of a tile."""


@dataclass(frozen=True)
class Task:
    """What is to be found among which embeddings.

    Attributes:
        images: `[n, d]`, texts: `[m, d]`: float32 or float16, on the host; may be memory-mapped.
        wanted: texts per image, images per text.
        excluded: pairs that are no candidates.
        ceilings: the highest scores that count; None where all do.
    """

    images: Tensor
    texts: Tensor
    wanted: tuple[int, int]
    excluded: Excluded
    ceilings: Ceilings | None = None

    def check(self) -> None:
        """Raise DataError where a query has fewer candidates than are wanted."""
        texts, images = self.left()
        check_enough(texts, self.wanted[0], "image", "texts", "--texts_per_image")
        check_enough(images, self.wanted[1], "text", "images", "--images_per_text")

    def left(self) -> tuple[Array, Array]:
        """How many candidates each image and each text has."""
        images, texts = len(self.images), len(self.texts)
        return texts - self.excluded.per_image(images), images - self.excluded.per_text(texts)

    def scan(self, rows: range, screen: Screen, tile_bytes: int) -> Scan:
        """The pass over the images `rows`."""
        return Scan(self.images, self.texts, rows, self.wanted, self.excluded, screen, tile_bytes, self.ceilings)


@dataclass(frozen=True)
class Direction:
    """One direction's queries and pool `[rows, d]`, how many are wanted, and the ceiling `[queries]` of scores."""

    queries: Tensor
    pool: Tensor
    most: int
    ceiling: Tensor | None
    what: str
    flag: str

    @classmethod
    def both(cls, task: Task) -> tuple[Direction, Direction]:
        """Image to text, and text to image."""
        above = (None, None) if task.ceilings is None else (task.ceilings.images, task.ceilings.texts)
        return (
            cls(task.images, task.texts, task.wanted[0], above[0], "image", "--texts_per_image"),
            cls(task.texts, task.images, task.wanted[1], above[1], "text", "--images_per_text"),
        )


Write = Callable[[Array, Array, Array], object]
"""Takes queries `[q]`, their candidates `[q, most]` int32 and exact scores `[q, most]` float32."""


def finish_lists(
    direction: Direction, found: Iterable[Found], device: torch.device, tile_bytes: int, write: Write, scored: bool
) -> None:
    """Order what was found and hand it to `write`; scores are only worked out where they are asked for.

    Raises:
        DataError: a query has fewer candidates below its ceiling than are wanted.
    """
    room = ROOM * tile_bytes
    pool = direction.pool
    longest = max((float(part.float().norm(dim=1).max()) for part in pool.split(ROWS)), default=0.0)
    for rows, lists in group_found(found, max(1, room // (16 * pool.shape[1]))):
        for start, part in split_lists(lists, max(1, room // ENTRY_BYTES)):
            some = rows[start : start + len(part)]
            chosen = torch.from_numpy(some)
            queries = direction.queries[chosen].to(device).float()
            ceiling = None if direction.ceiling is None else direction.ceiling[chosen].to(device)
            places, scores, there = order_exactly(queries, pool, part.to(device), direction.most, longest, ceiling)
            check_found(there.cpu().numpy(), some, direction)
            if scored:
                query = torch.arange(len(some), device=device).repeat_interleave(direction.most)
                scores = score_in_order(queries, pool, query, places.flatten()).view(places.shape)
            write(some, places.cpu().numpy().astype(np.int32), scores.cpu().numpy().astype(np.float32))


def group_found(found: Iterable[Found], most: int) -> Iterator[tuple[Array, Shortlists]]:
    """Successive findings joined up to about `most` queries."""
    waiting: list[Found] = []
    for one in found:
        if waiting and sum(len(held.rows) for held in waiting) + len(one.rows) > most:
            yield join_found(waiting)
            waiting = []
        waiting.append(one)
    if waiting:
        yield join_found(waiting)


def join_found(found: list[Found]) -> tuple[Array, Shortlists]:
    """Which queries there are, and their lists."""
    return np.concatenate([np.asarray(one.rows) for one in found]), Shortlists.cat([one.lists for one in found])


def split_lists(lists: Shortlists, entries: int, first: int = 0) -> Iterator[tuple[int, Shortlists]]:
    """The lists cut so that a table of each part has at most so many entries; with where each part begins.

    A query that ties with thousands of others then does not widen the table of all.
    """
    if len(lists) <= 1 or len(lists) * int(lists.counts.max()) <= entries:
        yield first, lists
        return
    half = len(lists) // 2
    cut = lists.offsets[half]
    yield from split_lists(Shortlists(lists.offsets[: half + 1], lists.chosen[:cut]), entries, first)
    yield from split_lists(Shortlists(lists.offsets[half:] - cut, lists.chosen[cut:]), entries, first + half)


def check_found(there: Array, queries: Array, direction: Direction) -> None:
    """Raise DataError where a query has not enough candidates below its ceiling."""
    if there.min(initial=direction.most) < direction.most:
        at = int(there.argmin())
        raise DataError(
            f"{direction.what} {queries[at]} (counted from 0) has only {there[at]} candidates that score far enough "
            f"below its positive, {direction.most} are wanted; lower --score_margin"
            f"{f' or {direction.flag} to {there[at]}' if there[at] else ''}"
        )


def mine_lists(task: Task, screen: Screen, tile_bytes: int, scored: bool = False) -> tuple[Array, Array, Array, Array]:
    """Both directions in memory, by one process.

    Returns:
        `[n, k]` texts of each image and `[m, k']` images of each text, int32, and where `scored` their exact scores
        in float32.

    Raises:
        DataError: a query has fewer candidates than are wanted.
    """
    task.check()
    scan = task.scan(range(len(task.images)), screen, tile_bytes)
    blocks = []
    while not scan.done:
        block = scan.step()
        if block is not None:
            blocks.append(block)
    columns = (scan.columns(part) for part in range(scan.texts.cut.parts))
    out: list[Array] = []
    for direction, found in zip(Direction.both(task), (blocks, columns), strict=True):
        shape = len(direction.queries), direction.most
        places, scores = np.empty(shape, np.int32), np.empty(shape, np.float32)
        finish_lists(direction, found, screen.device, tile_bytes, row_writer(places, scores), scored)
        out += [places, scores]
    return out[0], out[2], out[1], out[3]


def row_writer(places: Array, scores: Array | None = None) -> Write:
    """Writes each query's row."""

    def write(queries: Array, chosen: Array, scored: Array) -> None:
        places[queries] = chosen
        if scores is not None:
            scores[queries] = scored

    return write
