from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import load
from config.errors import ConfigError
from config.kinds import Kinds

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optim": {"lerning_rate": 1}},
            "optim.lerning_rate (FILE) is not a known key: did you mean optim.learning_rate?",
        ),
        ({"optim": {"lr": 1}}, "a known key: a name of other trainers: here it is optim.learning_rate"),
        ({"epochs": 1}, "epochs (FILE) is not a known key: a name of other trainers: there are no epochs"),
        ({"learning_rat": 1}, "learning_rat (FILE) is not a known key: did you mean optim.learning_rate?"),
        ({"data": {"learning_rate": 1}}, "did you mean optim.learning_rate?"),
        ({"optin": {"learning_rate": 1}}, "optin (FILE) is not a known key: did you mean optim?"),
        (
            {"data": {}, "fp16": True, "optim": {}},
            "fp16 (FILE) is not a known key: a published key; in sections it is optim.precision",
        ),
        (
            {"negatives": {"zzz": 1}},
            "known are negatives.negative_size, negatives.hard_neg_size, negatives.mine_after, negatives.mining_batch",
        ),
        ({"matcher": {"hiden_size": 1}}, "did you mean matcher.hidden_size?"),
        (
            {"optim": {"learning_rate": -1}},
            "optim.learning_rate = -1 (FILE): should be greater than 0 (peak learning rate",
        ),
        (
            {"optim": {"learning_rate": "3e-5"}},
            "optim.learning_rate = '3e-5' (FILE): should be a valid number",
        ),
        ({"optim": {"betas": [0.9, 2]}}, "optim.betas = 2 (FILE): should be less than 1"),
        ({"optim": {"betas": [0.9]}}, "optim.betas"),
        ({"eval": {"full_val": 1}}, "eval.full_val = 1 (FILE): should be a valid boolean"),
        ({"eval": {"ties": "fair"}}, "should be 'pessimistic', 'optimistic', 'mean' or 'index'"),
        ({"seed": 1.5}, "seed = 1.5 (FILE): should be a valid integer"),
        ({"data": 3}, "data (FILE): should be an object"),
        ({"data": {"conf_th": 2}}, "data.conf_th = 2 (FILE): should be from 0 to 1, or -1"),
        ({"data": {"val_txt_db": None}}, "data.val_txt_db = None (FILE): should be a valid string"),
        ({"matcher": {"name": "unitr"}}, "matcher.name = 'unitr' (FILE): known are uniter, towers"),
        ({"matcher": {"name": ["uniter"]}}, "matcher.name = ['uniter'] (FILE): should be a name"),
        (
            {"matcher": {"name": "towers"}},
            "matcher.width is missing: give it in the config file or with --set matcher.width=VALUE",
        ),
        ({"matcher": {"name": "towers", "width": 3}}, "matcher (FILE): width should be even"),
        ({"optim": {"learning_rate": -1, "betas": 3, "adam_eps": 0}}, "(and 2 more)"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    settings: dict[str, Any], message: str, kinds: Kinds, write: Write
) -> None:
    path = write("run.json", settings)
    with pytest.raises(ConfigError) as caught:
        load(path, {}, kinds)
    line = str(caught.value).replace(str(path), "FILE")
    assert message in line
    assert "\n" not in line


def test_not_a_number_is_refused(kinds: Kinds, write: Write) -> None:
    with pytest.raises(ConfigError, match="should be a finite number"):
        load(write("run.json", '{"optim": {"learning_rate": NaN}}'), {}, kinds)
