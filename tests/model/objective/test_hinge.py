"""model/objective/hinge.py: the ranking hinge over sigmoid scores."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from config.errors import ConfigError
from model.objective import build_objective, find_objective
from model.objective.hinge import Config, Hinge, ranking_hinge


def scores(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(rows: list[list[float]], margin: float) -> list[list[float]]:
    """The formula, number by number."""
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    return [[max(0.0, margin + sigmoid(other) - sigmoid(row[0])) for other in row[1:]] for row in rows]


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_it_is_the_formula_number_by_number(margin: float) -> None:
    given = scores()
    torch.testing.assert_close(ranking_hinge(given, margin), torch.tensor(plain(given.tolist(), margin)))


def test_the_objective_is_the_mean_over_anchors_and_negatives() -> None:
    given = scores()
    out, batch = SimpleNamespace(scores={"match": given}), SimpleNamespace(pool=object())
    found = Hinge(Config(margin=0.3))(out, batch, 0.5)  # type: ignore[arg-type]
    assert found.keys() == {"hinge"}
    torch.testing.assert_close(found["hinge"].value, torch.tensor(plain(given.tolist(), 0.3)).mean())


def test_a_batch_without_pools_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="pools"):
        Hinge(Config())(SimpleNamespace(scores={}), SimpleNamespace(pool=None), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_judged_in_float32(dtype: torch.dtype) -> None:
    given = scores().to(dtype)
    found = ranking_hinge(given, 0.2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ranking_hinge(given.float(), 0.2))


def test_double_precision_stays_double() -> None:
    given = scores(dtype=torch.float64).requires_grad_()
    assert ranking_hinge(given, 0.2).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: ranking_hinge(x, 0.2), given)


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        Config(margin=-0.1)


def test_an_objective_is_found_by_the_name_of_its_file() -> None:
    assert find_objective("hinge") is Hinge
    assert isinstance(build_objective(Config()), Hinge)
    with pytest.raises(ConfigError, match=r"model/objective/hing\.py does not exist"):
        find_objective("hing")
