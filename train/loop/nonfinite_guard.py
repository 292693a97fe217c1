"""The non-finite guard: updates with such a gradient are skipped and counted; too many in a row end the run."""

from __future__ import annotations

from collections.abc import Mapping

from config.errors import Failure


class NonFiniteGuard:
    """Says of each update whether it may be made.

    Args:
        most: how many in a row may be left out.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.in_row = 0
        self.since_read = 0

    def allows(self, finite: bool, step: int) -> bool:
        """Whether update `step` (from 1), whose gradient is `finite` or not, may be made.

        Raises:
            Failure: it is one too many.
        """
        self.in_row = 0 if finite else self.in_row + 1
        self.since_read += not finite
        if self.in_row > self.most:
            updates = "1 update" if self.in_row == 1 else f"{self.in_row} updates"
            raise Failure(
                f"step {step}: the gradient was not finite in {updates} in a row, where most_skipped "
                f"allows {self.most}; lower --learning_rate, or leave fp16 for --precision bf16 or off, and start again"
            )
        return finite

    def read(self) -> dict[str, int]:
        """How many were left out since it was last asked, under the name that the log has for it; {} for none."""
        skipped, self.since_read = self.since_read, 0
        return {"skipped": skipped} if skipped else {}

    def state_dict(self) -> dict[str, int]:
        return {"in_row": self.in_row, "since_read": self.since_read}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state; an empty one, of a checkpoint from before there was any, starts anew."""
        self.in_row, self.since_read = state.get("in_row", 0), state.get("since_read", 0)
