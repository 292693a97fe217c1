"""The `did you mean` of every misspelt name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the remedy of a misspelt name: the known name it was most likely meant to be, or `otherwise`.

    Of dotted names only the last parts are compared: a leaf is often right but sought in the wrong section.
    """
    by_leaf = {name.rpartition(".")[2]: name for name in reversed(list(known))}
    leaf = word.rpartition(".")[2]
    close = [leaf] if leaf in by_leaf else get_close_matches(leaf, by_leaf, n=1)
    return f"did you mean {by_leaf[close[0]]}?" if close else otherwise
