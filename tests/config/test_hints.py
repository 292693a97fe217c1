from __future__ import annotations

import pytest

from config.hints import did_you_mean

KNOWN = ["data", "optim.optim", "optim.learning_rate", "matcher.hidden_size"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rate", "optim.learning_rate"),
        ("data.learning_rate", "optim.learning_rate"),
        ("optim.lerning_rate", "optim.learning_rate"),
        ("dta", "data"),
        ("matchr.hidden_size", "matcher.hidden_size"),
    ],
)
def test_the_nearest_known_name_is_offered(word: str, meant: str) -> None:
    assert did_you_mean(word, KNOWN, "-") == f"did you mean {meant}?"


def test_a_far_name_gets_the_other_remedy() -> None:
    assert did_you_mean("zzz", KNOWN, "look it up") == "look it up"
    assert did_you_mean("zzz", [], "look it up") == "look it up"
