"""results.json of an output folder, and its entries as tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from config.errors import DataError
from data.files import read_json, write_json
from train.scoring.scores import TWO_STAGE


def write_entry(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Put an entry into results.json; the others stay as they are, and that of all pairs beside one of two stages.

    Raises:
        DataError: the file there is something else.
    """
    path = folder / "results.json"
    folder.mkdir(parents=True, exist_ok=True)
    there = read_json(path, "remove it and evaluate again") if path.exists() else {}
    if not isinstance(there, dict):
        raise DataError(f"{path}: is no JSON object of entries; remove it and evaluate again")
    write_json(path, there | {name + (TWO_STAGE if "two_stage" in found else ""): found}, indent=1)


def format_recalls(found: dict[str, Any]) -> str:
    """The recalls of an entry for people; with folds, those of all images at once below their mean."""
    end = format_two_stage(found["two_stage"]) if "two_stage" in found else ""
    if "whole" not in found:
        return format_table(found["recalls"]) + end
    images, folds = found["images"], found["folds"]
    return (
        f"mean of {folds} folds of {images // folds:,} images\n{format_table(found['recalls'])}\n"
        f"all {images:,} images\n{format_table(found['whole'])}{end}"
    )


def format_two_stage(found: dict[str, Any]) -> str:
    """A line about two stages for people."""
    ceiling = found["ceiling"]
    took = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in found["seconds"].items())
    return (
        f"two stages: {100 * found['scored']:.1f} % of the pairs scored, those among the {found['k']} nearest; so at "
        f"most {100 * ceiling['txt']:.1f} % of the images and {100 * ceiling['img']:.1f} % of the texts can find a "
        f"match ({took})\n"
    )


def format_table(recalls: dict[str, float]) -> str:
    """The recalls of both directions as published tables print them, in percent, and their ranks, from 1."""
    lines = [f"{'':14}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'mean R':>9}{'median rank':>13}{'mean rank':>11}"]
    for title, short in (("image to text", "txt"), ("text to image", "img")):
        values = "".join(f"{100 * recalls[f'{short}_r{k}']:7.1f}" for k in (1, 5, 10))
        ranks = f"{recalls[f'{short}_medr']:13.1f}{recalls[f'{short}_meanr']:11.1f}"
        lines.append(f"{title:14}{values}{100 * recalls[f'{short}_r_mean']:9.1f}{ranks}")
    return "\n".join([*lines, f"rsum {recalls['rsum']:.1f}", ""])
