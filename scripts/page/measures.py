"""From the events and scores of a run to the charts that tell how it went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.page.charts import Chart, Line, curves, histogram, layers
from scripts.page.outcome import Outcome, Scores
from scripts.page.plot import plain
from train.recall import Floats, Ties, count

Event = dict[str, Any]

LOSSES = {"loss": "loss", "loss_i": "image anchors", "loss_t": "text anchors"}
PARTS = {"data_s": "load", "mine_s": "mine", "train_s": "train", "reduce_s": "reduce", "update_s": "update"}
RECALLS = {"txt_r10": ("image → text R@10", "c0 dashed"), "txt_r1": ("image → text R@1", "c0"),
           "img_r10": ("text → image R@10", "c1 dashed"), "img_r1": ("text → image R@1", "c1")}
_TOLD = {*LOSSES, *PARTS, "event", "step", "time", "lr", "grad_norm", "pairs_per_s", "anchors_per_s", "eta_s"}
_BINS = 72
_MOST_SCORES = 4_000_000  # a histogram of these looks like that of all, in a second


def training_charts(outcome: Outcome) -> list[Chart]:
    """Loss, validation, learning rate, gradient norm, throughput, the parts of a step: what was logged."""
    events = outcome.of("train")
    losses = [_line(events, key, name, noisy=True) for key, name in LOSSES.items() if _has(events, key)]
    charts = [curves("Loss", losses)] if losses else []
    charts += _validation(outcome.of("valid"))
    if _has(events, "lr"):
        charts.append(curves("Learning rate", [_line(events, "lr", "learning rate")]))
    if _has(events, "grad_norm"):
        limit = outcome.setting("optim", "grad_norm")
        note = f"Before clipping at {plain(limit)}." if limit and limit > 0 else ""
        charts.append(curves("Gradient norm", [_line(events, "grad_norm", "norm", noisy=True)], note=note))
    if _has(events, "pairs_per_s"):
        anchors = [event["anchors_per_s"] for event in events if event.get("anchors_per_s")]
        note = f"On average {plain(float(np.mean(anchors)))} anchors per second." if anchors else ""
        pairs = _line(events, "pairs_per_s", "scored and trained", noisy=True)
        charts.append(curves("Pairs per second", [pairs], note=note))
    return [*charts, *_parts_of_a_step(events)]


def other_charts(outcome: Outcome) -> list[Chart]:
    """One chart for each further number that the training events hold."""
    events = outcome.of("train")
    names = sorted({name for event in events for name in event} - _TOLD)
    return [curves(name, [_line(events, name, name, noisy=True)]) for name in names if _has(events, name)]


def found_within(scores: Scores, ties: Ties) -> Chart:
    """The share of queries answered within the first k places, for every k."""
    lines = []
    for name, counts, candidates in zip(("image → text", "text → image"), count(scores.matrix, scores.owner),
                                        scores.matrix.shape[::-1], strict=True):
        places = np.unique(np.geomspace(1, candidates, 60).round())
        found = np.searchsorted(np.sort(counts.ranks(ties)), places - 1, side="right") / len(counts.above)
        lines.append(Line(name, places, found))
    images = len(scores.images)
    chance = np.unique(np.geomspace(1, images, 60).round())
    lines.append(Line("text → image by chance", chance, chance / images, look="quiet dashed"))
    return curves("Found within the first k places", lines, x_label="k", percent=True, log_x=True, last=False)


def score_histogram(scores: Scores) -> Chart:
    """How the scores of right and of wrong pairs lie."""
    images, texts = scores.matrix.shape
    stride = -(-images * texts // _MOST_SCORES)
    positive = scores.matrix[scores.owner, np.arange(texts)].astype(np.float64)
    some = np.asarray(scores.matrix[::stride], np.float32)
    wrong = some[np.arange(0, images, stride)[:, None] != scores.owner]
    known = np.concatenate([positive, wrong])
    known = known[np.isfinite(known)]
    edges = np.linspace(known.min(), max(known.max(), known.min() + 1e-6), _BINS + 1)
    counts = {"right pairs": np.histogram(positive, edges)[0], "wrong pairs": np.histogram(wrong, edges)[0]}
    note = f"{len(positive):,} right and {wrong.size:,} wrong pairs, each drawn to its own height."
    if stride > 1:
        note += f" Wrong pairs of every {stride}th image."
    return histogram("Scores", edges, counts, x_label="score", note=note)


def _parts_of_a_step(events: Sequence[Event]) -> list[Chart]:
    timed = [event for event in events if any(key in event for key in PARTS)]
    if len(timed) < 2:
        return []
    heights = {name: np.array([event.get(key) or 0.0 for event in timed])
               for key, name in PARTS.items() if _has(timed, key)}
    return [layers("Where the time of a step goes", [event["step"] for event in timed], heights,
                   note="Seconds per step.")]


def _validation(events: Sequence[Event]) -> list[Chart]:
    charts = []
    splits = sorted({str(event.get("split", "")) for event in events})
    for split in splits:
        own = [event for event in events if str(event.get("split", "")) == split]
        flat = [{"step": event["step"], **event.get("recalls", {})} for event in own]
        lines = [_line(flat, key, *told) for key, told in RECALLS.items() if _has(flat, key)]
        if lines:
            title = f"Validation on {split}" if len(splits) > 1 else "Validation"
            charts.append(curves(title, lines, percent=True))
    return charts


def _line(events: Sequence[Event], key: str, name: str, look: str = "", noisy: bool = False) -> Line:
    own = [event for event in events if key in event]
    ys: Floats = np.array([np.nan if event[key] is None else event[key] for event in own], np.float64)
    return Line(name, [event["step"] for event in own], ys, noisy, look)


def _has(events: Sequence[Event], key: str) -> bool:
    return any(_is_number(event.get(key)) and "step" in event for event in events)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
