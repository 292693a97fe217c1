"""Detection of collapse: the loss stays at its margin, and recall among the negatives at chance."""

from __future__ import annotations

from collections.abc import Mapping

from config.schema import Run
from config.sections import Named

UPDATES = 100
"""For so many updates in a row it has to look so; any run passes by the margin on its way."""
NEAR = 0.05
"""How near to its margin a loss stands there, as a share of that."""
LUCK = 2.0
"""As many times chance is still chance."""


class CollapseDetector:
    """Looks at the means that a run logs; no number is computed or waited for on its account.

    Args:
        chance: R@1 of a draw among the candidates of an anchor.
        remedies: what to say that helps.
    """

    def __init__(self, run: Run, chance: float, remedies: str) -> None:
        self._settled, self._chance, self._remedies = run.optim.warmup_steps, chance, remedies
        self._since: int | None = None

    def warning(self, step: int, paid: Mapping[str, float], plateaus: Mapping[str, float], recall: float) -> str:
        """The warning that is due; '' for none.

        Args:
            paid: what each term cost an anchor, on average since the last call.
            plateaus: what it costs where all scores are alike (see `Objective.plateaus`).
            recall: R@1 among the negatives of training.
        """
        at_margin = plateaus and all(abs(paid[name] - cost) <= NEAR * cost for name, cost in plateaus.items())
        if step <= self._settled or not at_margin or recall > LUCK * self._chance:
            self._since = None
            return ""
        if self._since is None:
            self._since = step
        if step - self._since < UPDATES:
            return ""
        return (f"collapsed: for {UPDATES} updates the loss has stood at its margin and recall among its negatives at "
                f"chance, so all scores are alike; usual remedies are {self._remedies}")


def suggest_gentler(objective: Named, otherwise: str) -> str:
    """The usual remedies that an objective's settings offer, beginning with `otherwise`."""
    ways = {"ramp": "a loss that rises slowly (--ramp 0.1)",
            "hardest_from": "all negatives before the hardest (--hardest_from 0.1)"}  # fmt: skip
    offered = [told for name, told in ways.items() if name in type(objective).model_fields]
    return ", ".join([*([otherwise] if otherwise else []), *offered, "a lower --learning_rate"])
