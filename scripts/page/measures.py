"""From the events and scores of a run to the charts that tell how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.page.charts import Chart, Line, curves, histogram, layers
from scripts.page.outcome import Outcome
from scripts.page.plot import plain
from train.metrics.clock import PARTS
from train.metrics.throughput import CLOCKED, SHARES
from train.scoring.recall import Floats, Ties, count
from train.scoring.scores import TWO_STAGE, Scores

Event = dict[str, Any]

ANCHORS = {"i": "image anchors", "t": "text anchors"}
RECALLS = {"txt_r10": ("image → text R@10", "c0 dashed"), "txt_r1": ("image → text R@1", "c0"),
           "img_r10": ("text → image R@10", "c1 dashed"), "img_r1": ("text → image R@1", "c1")}
_TOLD = CLOCKED | {"event", "step", "loss", "lr", "grad_norm", "pool_r1_i", "pool_r1_t"}
_BINS = 72
_MOST_SCORES = 4_000_000  # a histogram of these looks like that of all, in a second


def training_charts(outcome: Outcome) -> list[Chart]:
    """Loss, validation, learning rate, gradient norm, throughput, the parts of a step: what was logged."""
    events = outcome.of("train")
    charts = _losses(events) + _validation(outcome)
    pools = [_line(events, f"pool_r1_{way}", name, noisy=True) for way, name in ANCHORS.items()
             if _has(events, f"pool_r1_{way}")]
    if pools:
        note = "Share of anchors whose match scored above all drawn negatives, before training on them."
        charts.append(curves("Ahead of its pool", pools, percent=True, note=note))
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
    return [*charts, *_parts_of_a_step(events), *_shares_of_ranks(events)]


def other_charts(outcome: Outcome) -> list[Chart]:
    """One chart for each further number that the training events hold."""
    events = outcome.of("train")
    names = sorted({name for event in events for name in event} - _TOLD - {key for key, _ in _terms(events)})
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
    positive, wrong = positive[np.isfinite(positive)], wrong[np.isfinite(wrong)]  # what was not scored has none
    known = np.concatenate([positive, wrong])
    edges = np.linspace(known.min(), max(known.max(), known.min() + 1e-6), _BINS + 1)
    counts = {"right pairs": np.histogram(positive, edges)[0], "wrong pairs": np.histogram(wrong, edges)[0]}
    note = f"{len(positive):,} right and {wrong.size:,} wrong pairs, each drawn to its own height."
    if stride > 1:
        note += f" Wrong pairs of every {stride}th image."
    return histogram("Scores", edges, counts, x_label="score", note=note)


def _losses(events: Sequence[Event]) -> list[Chart]:
    if not _has(events, "loss"):
        return []
    lines = [_line(events, "loss", "loss", noisy=True)]
    return [curves("Loss", lines + [_line(events, *term, noisy=True) for term in _terms(events)])]


def _terms(events: Sequence[Event]) -> list[tuple[str, str]]:
    """(key, name) of the objective's terms, which are logged for each kind of anchor as NAME_i and NAME_t."""
    keys = sorted({key for event in events for key in event} - _TOLD)
    parts = [(key, *key.rpartition("_")[::2]) for key in keys if _has(events, key)]
    return [(key, f"{name}, {ANCHORS[way]}") for key, name, way in parts if way in ANCHORS]


def _parts_of_a_step(events: Sequence[Event]) -> list[Chart]:
    timed = [event for event in events if any(f"{part}_s" in event for part in PARTS)]
    if len(timed) < 2:
        return []
    heights = {part: np.array([event.get(f"{part}_s") or 0.0 for event in timed])
               for part in PARTS if _has(timed, f"{part}_s")}
    return [layers("Where the time of a step goes", [event["step"] for event in timed], heights,
                   note="Seconds per step.")]


def _shares_of_ranks(events: Sequence[Event]) -> list[Chart]:
    """What many ranks wait for; one rank waits for nobody."""
    shared = [event for event in events if len(event.get("ranks", {}).get("load_s", ())) > 1]
    if len(shared) < 2:
        return []
    lines = [_line(shared, key, name, noisy=True) for key, name in SHARES.items()]
    slowest, often = Counter(event["slowest"] for event in shared).most_common(1)[0]
    note = f"Of all ranks' time. Rank {slowest} was the slowest in {100 * often / len(shared):.0f} % of the lines."
    return [curves("What ranks wait for", lines, percent=True, note=note)]


def _validation(outcome: Outcome) -> list[Chart]:
    """What was measured again and again; a final evaluation is among the results already."""
    charts, events = [], outcome.of("valid")
    times = Counter(str(event.get("split", "")) for event in events)
    final = {name.removesuffix(TWO_STAGE) for name in outcome.results}
    splits = sorted(split for split, often in times.items() if often > 1 or split not in final)
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
