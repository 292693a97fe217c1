from __future__ import annotations

from typing import Any

import pytest

from config import load
from config.errors import ConfigError
from config.kinds import Kinds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives.hard_neg_size": 400}, "lower hard_neg_size or raise negative_size"),
        ({"optim.warmup_steps": 5001}, "a warm-up of 5001 updates does not fit into a run of 5000"),
        ({"data.train_txt_dbs": ["a"]}, "1 text stores and 0 image stores"),
        ({"data.val_txt_db": "a"}, "data.val_txt_db and data.val_img_db go together"),
        ({"data.test_img_db": "a"}, "data.test_txt_db and data.test_img_db go together"),
        ({"data.min_bb": 101}, "min_bb 101 is above max_bb 100"),
        ({"optim.schedule": "milestones"}, "schedule milestones and no decay_at do not go together"),
        ({"optim.decay_at": [2, 3]}, r"schedule linear and decay_at \[2, 3\] do not go together: give milestones with"),
        ({"optim.schedule": "milestones", "optim.decay_at": [3, 2]}, r"decay_at \[3, 2\] does not ascend"),
        ({"optim.schedule": "milestones", "optim.decay_at": [2, 2]}, r"decay_at \[2, 2\] does not ascend"),
        ({"optim.schedule": "milestones", "optim.decay_at": [9, 5000]}, "decay_at 5000 comes after all 5000 updates"),
        ({"optim.step_twice": "caption.", "optim.rate_factors": [["text", 0.1]]}, "both divide the parameters: leave"),
        ({"optim.optim": "torch_adamw", "optim.correct_bias": False}, "torch_adamw always corrects its moments: set"),
        ({"eval.select_on_test": True}, "validates on the test stores, of which there are none: name test_txt_db"),
        ({"negatives.mining_batch": 3}, "choose a divisor of 8 as mining_batch"),
        ({"negatives.refresh_every": 2}, "there are none to begin with: name the folder of the first ones as offline"),
        ({"data.max_txt_len": 411}, "411 words, 2 marks and 100 regions do not fit into the 512 positions"),
        ({"data.conf_th": -1, "data.max_txt_len": 475}, "475 words, 2 marks and 36 regions do not fit"),
    ],
)
def test_contradictions_are_refused_with_their_keys_and_places(
    settings: dict[str, Any], message: str, kinds: Kinds
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(None, settings, kinds)
    for key in settings:
        assert f"{key}: override" in str(caught.value) or key == "data.conf_th"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"negatives.hard_neg_size": 399},
        {"optim.warmup_steps": 5000},
        {"data.max_txt_len": 410},
        {"data.max_txt_len": -1},
        {"data.conf_th": -1, "data.max_txt_len": 474, "data.max_bb": 500},
        {"matcher.name": "towers", "matcher.width": 2, "data.max_txt_len": 1000},
        {"negatives.mining_batch": 8},
        {"optim.schedule": "milestones", "optim.decay_at": [0, 4999]},
        {"eval.select_on_test": True, "data.test_txt_db": "a", "data.test_img_db": "b"},
        {"negatives.refresh_every": 2, "negatives.offline": "lists"},
    ],
)
def test_what_just_fits_is_taken(settings: dict[str, Any], kinds: Kinds) -> None:
    load(None, settings, kinds)
