"""Every public golden case: the product computes what the published systems computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.run import Case, compare, compute, operations

CASES = sorted(path.parent for path in (Path(__file__).parent / "cases").glob("*/*/case.json"))


def test_cases_are_there() -> None:
    assert CASES


@pytest.mark.parametrize("folder", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_case(folder: Path) -> None:
    case = Case.load(folder)
    assert case.op in operations(case.system)[0], f"no op {case.op}"
    verdict = compare(case, *compute(case))
    assert verdict is not None, "the case has no expected numbers"
    assert not verdict.failed, f"{verdict.name}: {verdict.worst:.3g} times the tolerance"
