"""Singular and plural in messages."""

from __future__ import annotations


def pluralise(number: int, noun: str) -> str:
    """A number with its noun: "1 rank", "3 ranks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
