"""Suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

ALIKE = 0.75
"""Least likeness of a name that is offered; below it, two names share letters by chance."""
SHORTEST_START = 3
MOST = 3


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the remedy of a misspelt name: the known names it was most likely meant to be, or `otherwise`.

    Of dotted names only the last parts are compared: a leaf is often right but sought in the wrong section. A name
    that was cut short, or has something behind it, counts before one that is spelt alike.
    """
    by_leaf = {_leaf(name): name for name in reversed(list(known))}
    meant = _meant(_leaf(word), list(by_leaf))
    return f"did you mean {_listed([by_leaf[leaf] for leaf in meant])}?" if meant else otherwise


def _leaf(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-").replace("-", "_")


def _meant(leaf: str, known: list[str]) -> list[str]:
    if leaf in known:
        return [leaf]
    near = get_close_matches(leaf, known, n=1, cutoff=ALIKE)
    longer = [name for name in known if len(leaf) >= SHORTEST_START and name.startswith(leaf)]
    shorter = [name for name in known if len(name) > SHORTEST_START and leaf.startswith(f"{name}_")]
    started = longer or shorter
    return sorted(started) if started and len(started) <= MOST else near


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
