from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from config import load
from config.assemble import COMMON, Kinds
from config.schema import Run
from config.sections import Data, Eval, Negatives, Optim, Section

Write = Callable[..., Path]


def test_every_leaf_of_the_common_sections_has_a_name_of_its_own() -> None:
    leaves = Counter(leaf for section in COMMON.values() for leaf in section.model_fields)
    leaves.update(Run.model_fields.keys() - COMMON.keys())
    assert [leaf for leaf, times in leaves.items() if times > 1] == []


def test_every_leaf_is_documented() -> None:
    bare = [
        f"{s}.{leaf}"
        for s, kind in COMMON.items()
        for leaf, f in kind.model_fields.items()
        if not f.description
    ]
    assert bare == []


def test_defaults_are_the_published_recipe(kinds: Kinds) -> None:
    run = load(None, {}, kinds)
    assert (run.optim.learning_rate, run.optim.warmup_steps, run.optim.num_train_steps) == (5e-5, 500, 5000)
    assert (run.negatives.negative_size, run.negatives.hard_neg_size, run.optim.train_batch_size) == (
        399,
        31,
        8,
    )
    assert (run.optim.betas, run.optim.weight_decay, run.optim.grad_norm) == ((0.9, 0.98), 0.01, 2.0)
    assert (run.data.conf_th, run.data.max_bb, run.data.min_bb, run.data.num_bb) == (0.2, 100, 10, 36)


def test_without_a_word_about_items_a_run_is_the_published_one_of_pools(kinds: Kinds) -> None:
    run = load(None, {}, kinds)
    assert (run.optim.schedule, run.optim.step_twice, run.negatives.offline) == ("linear", "", "")


def test_offline_defaults_are_the_published_draw(kinds: Kinds) -> None:
    negatives = load(None, {}, kinds).negatives
    assert (negatives.offline_range, negatives.offline_rank_ratio, negatives.rank_coupling) == (300, 5, "shared")
    assert negatives.separate_passes
    assert negatives.refresh_every == 0


def test_a_run_is_frozen(kinds: Kinds) -> None:
    run = load(None, {}, kinds)
    with pytest.raises(ValidationError, match="frozen"):
        run.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        run.optim.learning_rate = 1.0


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (Data, {"conf_th": -0.5}),
        (Data, {"max_txt_len": 0}),
        (Data, {"max_bb": 0}),
        (Data, {"damaged": "ignore"}),
        (Optim, {"learning_rate": 0.0}),
        (Optim, {"learning_rate": float("nan")}),
        (Optim, {"betas": (0.9, 1.0)}),
        (Optim, {"grad_norm": 0.0}),
        (Optim, {"schedule": "cosine"}),
        (Optim, {"decay_steps": 0}),
        (Optim, {"decay_factor": 0.0}),
        (Optim, {"decay_factor": 1.1}),
        (Negatives, {"offline_range": 0}),
        (Negatives, {"offline_rank_ratio": 0}),
        (Negatives, {"rank_coupling": "none"}),
        (Negatives, {"refresh_every": -1}),
        (Eval, {"ties": "last"}),
        (Eval, {"select_by": "r5"}),
    ],
)
def test_values_out_of_range_are_refused(section: type[Section], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**values)


@pytest.mark.parametrize(
    ("section", "values"), [(Data, {"conf_th": -1, "max_txt_len": -1}), (Optim, {"grad_norm": -1})]
)
def test_minus_one_switches_off(section: type[Data] | type[Optim], values: dict[str, Any]) -> None:
    assert section(**values).model_dump().items() >= values.items()


def test_the_hash_names_the_result_and_not_the_circumstances(kinds: Kinds) -> None:
    base = load(None, {}, kinds).hash()
    assert len(base) == 12
    assert load(None, {"optim.learning_rate": 5e-5}, kinds).hash() == base
    for key, value in {
        "output.output_dir": "x",
        "output.resume": "never",
        "output.log_steps": 1,
        "data.n_workers": 0,
        "data.picture_cache_mb": 0,
        "eval.tokens_per_block": 1024,
    }.items():
        assert load(None, {key: value}, kinds).hash() == base, key
    for key, value in {
        "seed": 1,
        "optim.learning_rate": 1e-5,
        "eval.ties": "mean",
        "matcher.hidden_size": 64,
        "objective.margin": 0.1,
        "weights.checkpoint": "x.pt",
        "negatives.offline": "lists",
        "negatives.offline_range": 100,
        "negatives.rank_coupling": "independent",
        "negatives.separate_passes": False,
        "optim.schedule": "step",
        "optim.step_twice": "caption.",
        "data.smallest_crop": 0.6,
        "data.word_augment": 0.2,
    }.items():
        assert load(None, {key: value}, kinds).hash() != base, key


def test_a_dumped_run_loads_as_the_same_run(kinds: Kinds, write: Write) -> None:
    run = load(None, {"optim.betas": [0.8, 0.9], "data.max_bb": 50, "matcher.hidden_size": 64}, kinds)
    again = load(write("config.json", dict(reversed(run.dump().items()))), {}, kinds)
    assert again == run
    assert again.hash() == run.hash()
