"""plot.py: round numbers."""

from __future__ import annotations

import pytest

from scripts.page.plot import plain, ticks, widened


def test_round_ticks_and_plain_numbers():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 5e-5) == pytest.approx([0, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5])
    assert widened(0, 0.93) == pytest.approx((0, 1))
    assert widened(3, 3)[0] < 3 < widened(3, 3)[1]
    assert [plain(value) for value in (0, 0.25, 12500, 3e-05, 1183.6, -4)] == \
        ["0", "0.25", "12,500", "3e-05", "1,184", "-4"]
