"""What a report can verify by itself: files are whole and agree, and the recalls follow from the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from config.errors import ConfigError, DataError
from scripts.page.outcome import Outcome, counting
from train.scoring.recall import chance, recalls
from train.scoring.scores import Scores
from train.scoring.two_stage import shortlist_facts

_SAME = 1e-6  # fractions; results.json holds what the same code computed


@dataclass(frozen=True)
class Check:
    """One statement: it holds ("good"), it does not ("bad"), or it could not be checked ("open")."""

    state: str
    text: str


def check_run(outcome: Outcome) -> list[Check]:
    """Checks of the training events and the folder."""
    if not outcome.events:
        return [Check("open", "No training events are here; the curves are left out.")]
    trained = outcome.of("train")
    checks = [Check("good", f"{len(outcome.events):,} events read; metrics.jsonl is whole.")]
    # A line of the log without a loss is of updates that were all left out.
    told = [event for event in trained if "loss" in event or not event.get("skipped")]
    lost = [event["step"] for event in told if event.get("loss") is None]
    if lost:
        checks.append(Check("bad", f"The loss was not finite at {len(lost)} of {len(told)} logged steps, "
                                   f"first at step {lost[0]:,}."))
    elif told:
        checks.append(Check("good", f"The loss was finite at all {len(told):,} logged steps."))
    skipped = sum(event.get("skipped", 0) for event in trained)
    if skipped:
        checks.append(Check("open", f"Updates left out, for their gradient was not finite: {skipped:,}."))
    return [*checks, _finished(outcome)]


def check_split(name: str, entry: dict[str, Any], scores: Scores | None) -> list[Check]:
    """Checks of one split: counting as stated, recalls counted again from the scores."""
    ties, ir_count, _, median_rank = counting(entry)
    checks = []
    if median_rank == "floor":
        checks.append(Check("open", "A median between two ranks is told rounded down, as published."))
    if ir_count == "legacy":
        checks.append(Check("bad", "Image retrieval is counted with the error of the published code: it is "
                                   "too high, and comparable with tables counted so only."))
    if ties != "pessimistic":
        told = "listed" if ties == "index" else ties
        checks.append(Check("open", f"Ties are counted as {told}: recalls may be higher than by default."))
    tied = entry["recalls"].get("ties_in_top10")
    if tied:
        checks.append(Check("open", f"A tie touches the top ten of {tied:.2%} of the queries."))
    elif tied is not None:
        checks.append(Check("good", "No tie touches the top ten of any query."))
    if scores is None:
        return [*checks, Check("open", f"scores/{name} is not here: recalls could not be counted again.")]
    stages = [_stages_again(entry["two_stage"], scores)] if "two_stage" in entry else []
    return [*checks, *_counted_again(entry, scores), *stages]


def _counted_again(entry: dict[str, Any], scores: Scores) -> list[Check]:
    images, texts = scores.matrix.shape
    try:
        ours = recalls(scores.matrix, scores.owner, *counting(entry))
    except (ConfigError, DataError) as error:
        return [Check("bad", f"Recalls cannot be counted from the scores: {error}")]
    checks = [Check("good", f"The score matrix holds {images:,} × {texts:,} numbers, and none is NaN.")]
    told = entry["recalls"]
    shared = [key for key in ours if key in told]
    off = [key for key in shared if abs(ours[key] - told[key]) > _SAME * max(1.0, abs(ours[key]))]
    if off:
        one = off[0]
        checks.append(Check("bad", f"Counted again, {len(off)} values differ from results.json: "
                                   f"{one} is {ours[one]:.4f}, not {told[one]:.4f}."))
    else:
        checks.append(Check("good", f"All {len(shared)} values of results.json follow from the scores."))
    checks += _above_chance(ours, chance(scores.owner, images, counting(entry).folds))
    left_out = entry.get("left_out")
    if left_out:
        checks.append(Check("open", f"{len(left_out):,} damaged records were left out of the evaluation."))
    without = images - len(np.unique(scores.owner))
    if without:
        checks.append(Check("open", f"{without:,} of {images:,} images have no text: they answer, "
                                    "but do not ask."))
    return checks


def _stages_again(known: dict[str, Any], scores: Scores) -> Check:
    """What two stages scored, and the most that they can find, follow from which pairs have a score."""
    ours = shortlist_facts(known["k"], scores.matrix > -np.inf, scores.owner)
    if any(known[name] != value for name, value in ours.items()):
        return Check("bad", "Which pairs have a score is not as results.json says; evaluate again.")
    return Check("good", f"The {ours['scored']:.2%} of the pairs that have a score, and the most that can be found "
                         "among them, are as results.json says; all other pairs stand behind them.")


def _above_chance(ours: dict[str, float], by_chance: dict[str, float]) -> list[Check]:
    """A run that learned nothing is told so, also where few candidates make its recalls look high."""
    reached, expected = (100 * sum(found[key] for key in by_chance) for found in (ours, by_chance))
    if reached - expected < 0.1 * min(expected, 600 - expected):
        return [Check("bad", f"The recalls are no better than chance: rsum {reached:.1f}, by chance "
                             f"{expected:.1f}.")]
    return []


def _finished(outcome: Outcome) -> Check:
    last = max((event["step"] for event in outcome.events if "step" in event), default=0)
    planned = outcome.setting("optim", "num_train_steps")
    if planned and last >= planned:
        return Check("good", f"Training reached its last step, {last:,}.")
    of = f" of {planned:,}" if planned else ""
    return Check("open", f"Training has not ended: the last event is of step {last:,}{of}.")
