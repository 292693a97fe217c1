"""results.json of an output folder: what was measured, entry by entry, and its table for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.files import read_json, write_json

REMEDY = "name a folder that an evaluation wrote"


def keep(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Put an entry into results.json; the others stay as they are."""
    path = folder / "results.json"
    folder.mkdir(parents=True, exist_ok=True)
    there = read_json(path, "remove it and evaluate again") if path.exists() else {}
    write_json(path, there | {name: found}, indent=1)


def table(recalls: dict[str, float]) -> str:
    """The recalls as published tables print them, in percent."""
    rows = [("image to text", "txt"), ("text to image", "img")]
    lines = [f"{'':14}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median rank':>13}"]
    for title, short in rows:
        values = "".join(f"{100 * recalls[f'{short}_r{k}']:7.1f}" for k in (1, 5, 10))
        lines.append(f"{title:14}{values}{recalls[f'{short}_medr']:13.0f}")
    return "\n".join([*lines, f"rsum {recalls['rsum']:.1f}", ""])
