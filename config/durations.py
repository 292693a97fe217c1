"""Durations as people write them: 3h55m, 90m, 7200 (seconds)."""

from __future__ import annotations

import re

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


def seconds(span: str) -> float:
    """The seconds of a span such as "1d12h", "3h55m", "90m", "45s" or "7200".

    Raises:
        ValueError: it is none, or no time at all.
    """
    found = SPAN.fullmatch(span.strip())
    total = sum(int(part) * unit for part, unit in zip(found.groups("0"), UNITS.values(), strict=True)) if found else 0
    if not total:
        raise ValueError(f"{span!r} is no span of time; write it like 3h55m, 90m or 7200 (seconds)")
    return total
