"""train/loop/nonfinite_guard.py: which updates may be made, and when there were too many that may not."""

from __future__ import annotations

import pytest

from config.errors import FAILED, Failure
from train.loop.nonfinite_guard import NonFiniteGuard


def test_updates_that_are_not_finite_are_left_out_and_counted() -> None:
    skips = NonFiniteGuard(2)
    finite = [True, False, False, True, False, True]
    assert [skips.allows(fine, step) for step, fine in enumerate(finite, 1)] == finite
    assert skips.read() == {"skipped": 3}
    assert skips.read() == {}, "since it was last asked"
    skips.allows(False, 7)
    assert skips.read() == {"skipped": 1}


def test_one_too_many_in_a_row_ends_the_run() -> None:
    skips = NonFiniteGuard(2)
    for step, fine in enumerate([False, False, True, False, False], 1):
        skips.allows(fine, step)
    message = r"^step 6: the gradient was not finite in 3 updates in a row, where most_skipped allows 2; lower .*rate"
    with pytest.raises(Failure, match=message) as caught:
        skips.allows(False, 6)
    assert caught.value.exit_code == FAILED == 1
    assert "\n" not in str(caught.value)


def test_none_may_be_allowed() -> None:
    skips = NonFiniteGuard(0)
    assert skips.allows(True, 1)
    with pytest.raises(Failure, match="in 1 update in a row, where most_skipped allows 0"):
        skips.allows(False, 2)


def test_the_row_goes_on_after_a_resume() -> None:
    skips, again = NonFiniteGuard(2), NonFiniteGuard(2)
    skips.allows(False, 1)
    skips.allows(False, 2)
    again.load_state_dict(skips.state_dict())
    with pytest.raises(Failure, match="in 3 updates in a row"):
        again.allows(False, 3)
    other = NonFiniteGuard(2)
    other.load_state_dict(skips.state_dict())
    assert other.read() == {"skipped": 2}


def test_a_checkpoint_from_before_there_were_any_starts_anew() -> None:
    skips = NonFiniteGuard(1)
    skips.load_state_dict({})
    assert not skips.allows(False, 1)
    assert skips.read() == {"skipped": 1}
