"""The benchmarks in miniature: every row is there and every result equals the peer's; no test looks at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data.batches.batch import Ragged
from scripts.bench import BENCHMARKS, table
from scripts.benchmarks.packing import draw_lengths
from scripts.benchmarks.slimming import built, equal, nearest, saved
from scripts.benchmarks.timing import Rounds, Row, absent, close, interleave
from tests.support import run


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_quick_run_fills_its_rows(name: str, tmp_path: Path) -> None:
    done = run("scripts/bench.py", name, "--quick", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["machine"]["cores"] >= 1
    rows = [Row(**{key: value for key, value in row.items() if key != "verdict"}) for row in results["rows"]]
    assert rows
    assert all(row.ours > 0 if row.ours is not None else "not installed" in row.note for row in rows)
    assert table(rows).strip() in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_an_unknown_benchmark_is_refused(tmp_path: Path) -> None:
    done = run("scripts/bench.py", "writing", "--output", tmp_path)
    assert done.returncode == 2
    assert "no benchmark 'writing'; choose from reading," in done.stderr


def test_contestants_take_turns() -> None:
    turns: list[str] = []
    found = interleave({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 2)
    assert turns == ["a", "b", "a", "b", "b", "a"]
    assert [len(times) for times in found.seconds.values()] == [2, 2]


def test_the_ratio_is_taken_within_rounds() -> None:
    found = Rounds({"ours": [1.0, 10.0, 2.0], "peer": [2.0, 20.0, 4.0], "slow": [9.0, 90.0, 9.0]})
    assert found.ratio("ours", "peer") == 2.0
    assert found.best("slow", "peer") == "peer"
    row = found.row("group", "name", "ours", "peer", 8, "records/s", aim=1.5)
    assert (row.ours, row.peer, row.ratio, row.verdict) == (4.0, 2.0, 2.0, "met")


def test_verdicts() -> None:
    assert Row("g", "n", 1.0, 2.0, ratio=0.5, aim=0.7).verdict == "MISSED"
    assert Row("g", "n", 1.0, 2.0, ratio=0.5).verdict == "-"
    assert Row("g", "n", note="absent").verdict == "not run"


def test_unequal_results_are_an_error() -> None:
    ones = torch.ones(3)
    assert close(ones, ones + 1e-5) < 1e-4
    for other in (ones + 1e-3, ones * float("nan")):
        with pytest.raises(RuntimeError, match="differ"):
            close(ones, other)


def test_a_missing_peer_is_told_in_words() -> None:
    assert absent("json") == ""
    assert absent("json", "nothing_like_it").startswith("nothing_like_it not installed: pip install")


def test_random_lengths_leave_the_padding_that_was_asked_for() -> None:
    lengths = draw_lengths(32, 100)
    assert lengths.max() == 100
    assert len(set(lengths.tolist())) > 16
    assert 1 - lengths.mean() / 100 == pytest.approx(0.4, abs=0.005)


def test_memory_kept_for_the_gradient_is_counted_once() -> None:
    images, texts = (Ragged.of(torch.randn(6, 8), torch.tensor([2, 4])) for _ in range(2))
    matcher = built("Swin")
    twice = saved(lambda _, a, b: a.values * a.values * b.values, matcher, images, texts)
    assert twice == 3 * 6 * 8 * 4, "images, texts, and the square of images"
    assert saved(lambda _, a, b: a.values + b.values, matcher, images, texts) == 0


def test_only_what_rounding_cannot_decide_must_be_equal() -> None:
    scores = torch.zeros(4, 5)
    other, sure = scores.clone(), torch.ones(4, 5, dtype=torch.bool)
    other[1, 2] = 0.1
    with pytest.raises(RuntimeError, match="scores differ by 1e-01, 20 compared"):
        equal(scores, other, sure)
    sure[1, 2] = False
    assert equal(scores, other, sure) == "scores equal to 0e+00 but for 1 that hang on rounding"
    with pytest.raises(RuntimeError, match="scores differ"):
        equal(scores, scores, ~sure)


def test_gradients_are_compared_with_the_largest_of_their_kind() -> None:
    large = torch.tensor([100.0, 0.0])
    assert nearest([large + 1e-4], [large]) == pytest.approx(1e-6, rel=0.1)
    with pytest.raises(RuntimeError, match="gradients differ by 1e-04"):
        nearest([large, torch.tensor([1.0001])], [large, torch.tensor([1.0])])
