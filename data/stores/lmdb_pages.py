"""Checks of LMDB's pages without LMDB, which trusts them and crashes where they are damaged.

What is known of the format here: two pages of facts about the file, of which the newer counts, and a tree of branches
whose leaves hold the keys, each with its value or, where that is long, with the number of the page it begins on.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import crc32c
import numpy as np
from numpy.typing import NDArray

MAGIC = 0xBEEFC0DE
HEADER, NODE, NUMBER = 16, 8, 8
FACTS = struct.Struct("<16xI4x16xI50xH32xQ8xQ")
"""Of a page of facts: magic, page size; of the table of records its depth and root; the transaction."""
LOWER, UPPER = 12, 14
IS_ELSEWHERE = 1
DEEPEST = 32


class TornPages(Exception):
    """Pages contradict themselves or each other."""


def checksum(path: Path, values: bool) -> int:
    """CRC32C of the pages of a `data.mdb` that lead to its records.

    Args:
        values: with the values that stand among the keys, which is quick; without them, keys are looked at one by one.

    Raises:
        Torn: this is no whole tree.
        OSError: the file cannot be read.
    """
    if path.stat().st_size < FACTS.size:
        raise TornPages("too short")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        total = 0
        for page, is_leaf in _pages(view):
            parts = [page] if values else _without_values(page, is_leaf)
            for part in parts:
                total = crc32c.crc32c(part, total)
    return total


def _pages(view: mmap.mmap) -> Iterator[tuple[bytes, bool]]:
    """The facts, then the tree level by level: (page, whether it is a leaf)."""
    magic, size, *_ = FACTS.unpack_from(view)
    if magic != MAGIC or size < 512 or size & (size - 1) or len(view) < 2 * size:
        raise TornPages("begins like no store")
    facts = [FACTS.unpack_from(view, at) for at in (0, size)]
    yield b"".join(view[at : at + FACTS.size] for at in (0, size)), False
    _, _, depth, root, _ = max(facts, key=lambda one: one[-1])
    level = np.array([root] if depth else [], np.int64 if depth == 0 else np.uint64)
    for below in range(min(depth, DEEPEST), 0, -1):
        if len(level) and int(level.max()) >= len(view) // size:
            raise TornPages("points behind its end")
        deeper = []
        for number in np.sort(level).tolist():
            page = view[number * size : (number + 1) * size]
            yield page, below == 1
            if below > 1:
                deeper.append(_children(page))
        level = np.concatenate(deeper) if deeper else level


def _nodes(page: bytes) -> NDArray[np.uint16]:
    """Where the nodes of a page begin."""
    lower, upper = struct.unpack_from("<HH", page, LOWER)
    if not HEADER <= lower <= upper <= len(page):
        raise TornPages("has a page that ends before it begins")
    nodes = np.frombuffer(page, "<u2", (lower - HEADER) // 2, HEADER)
    if len(nodes) and not upper <= nodes.min() <= nodes.max() <= len(page) - NODE:
        raise TornPages("has a key outside of its page")
    return nodes


def _children(page: bytes) -> NDArray[np.uint64]:
    """The pages that a branch leads to: numbers of 48 bits, in the place of length and flags."""
    parts = np.frombuffer(page, np.uint8)[_nodes(page)[:, None].astype(np.int64) + np.arange(6)]
    return (parts.astype(np.uint64) << np.arange(0, 48, 8, dtype=np.uint64)).sum(1, dtype=np.uint64)


def _without_values(page: bytes, is_leaf: bool) -> Iterator[bytes]:
    """What a leaf says of its keys; all of what is no leaf."""
    if not is_leaf:
        yield page
        return
    yield page[: HEADER + 2 * len(_nodes(page))]
    for at in _nodes(page).tolist():
        flags, key = struct.unpack_from("<HH", page, at + 4)
        yield page[at : at + NODE + key + NUMBER * (flags & IS_ELSEWHERE)]
