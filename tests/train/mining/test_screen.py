"""train/mining/screen.py: no screened score is further from the truth than its bound says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import DataError
from tests.mined import CPU, embeddings, task
from train.mining import screen as module
from train.mining.lists import mine_lists
from train.mining.screen import KINDS, LOWEST, Screen, Slack, choose_screen, scaling_power


@settings(max_examples=30)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 99), st.integers(-6, 6), st.sampled_from([3, 64, 200]))
def test_the_bound_holds(kind: str, seed: int, scale: int, width: int) -> None:
    images, texts = embeddings(20, 30, width, seed)
    images, texts = images * 10.0**scale, texts + 1.0
    one = choose_screen(images, texts, kind, CPU)
    shown = ((images * one.image_scale).to(one.dtype) @ (texts * one.text_scale).to(one.dtype).T).float()
    true = images.double() @ texts.double().T * one.scale
    slack = one.slack(one.norms(images, one.image_scale), one.norms(texts, one.text_scale), width)
    for row in range(len(images)):
        mine = slack.of(torch.tensor([row]))
        assert (true[row] <= mine.above(shown[row])).all()
        assert (true[row] >= mine.below(shown[row])).all()


def test_the_bound_is_of_use() -> None:
    """A bound of everything would hold too."""
    images, texts = (torch.nn.functional.normalize(side) for side in embeddings(20, 30, 256))
    for kind, most in (("float32", 1e-4), ("float16", 2e-3), ("bfloat16", 2e-2)):
        one = choose_screen(images, texts, kind, CPU)
        slack = one.slack(one.norms(images, one.image_scale), one.norms(texts, one.text_scale), 256)
        assert float(slack.fixed.max() + slack.share) < most


@given(st.floats(-2, 2), st.floats(0, 0.1), st.floats(0, 0.004))
def test_below_the_floor_is_truly_below(score: float, fixed: float, share: float) -> None:
    slack = Slack(torch.tensor([fixed], dtype=torch.float64), share)
    given_score = torch.tensor([score], dtype=torch.float64)
    floor = slack.floor(given_score)
    assert float(slack.above(floor)) <= float(slack.below(given_score)) + 1e-12


def test_the_floor_of_nothing_lets_everything_pass() -> None:
    for share in (0.0, 0.004):
        floor = Slack(torch.zeros(1), share).floor(torch.tensor([-torch.inf]))
        assert LOWEST <= float(floor) < -1e37


def test_powers_of_two() -> None:
    for length, expected in ((1.0, 0.5), (0.9, 1.0), (3.0, 0.25), (2.0**-30, 2.0**29)):
        assert scaling_power(torch.tensor([[length, 0.0], [0.0, 0.0]]), "rows") == expected
    assert scaling_power(torch.zeros(2, 3), "rows") == 1.0


def test_rows_that_float32_cannot_multiply_are_refused() -> None:
    with pytest.raises(DataError, match=r"the images: a row is 2e\+30 long.*normalise"):
        scaling_power(torch.tensor([[2e30]]), "the images")
    with pytest.raises(DataError, match="too long"):
        scaling_power(torch.tensor([[torch.inf]]), "the images")


@pytest.mark.parametrize(("quick", "kind"), [("float16", "float16"), ("float32", "float32")])
def test_auto_takes_what_is_faster(quick: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_seconds", lambda screen, *_: 1.0 if screen.kind == quick else 9.0)
    assert choose_screen(*embeddings(5, 5), "auto", CPU).kind == kind


def test_auto_does_not_trust_products_beyond_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_seconds", lambda screen, *_: 1.0 if screen.kind == "float16" else 9.0)
    monkeypatch.setattr(module, "_holds", lambda *_: False)
    assert choose_screen(*embeddings(5, 5), "auto", CPU).kind == "float32"


def test_known_scales_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = embeddings(5, 7)
    whole = choose_screen(images, texts, "float16", CPU)
    monkeypatch.setattr(module, "scaling_power", lambda *_: pytest.fail("looked at all rows"))
    assert choose_screen(images, texts, "float16", CPU, (whole.image_scale, whole.text_scale)) == whole


def rules() -> list[object]:
    """What CUDA may do to a sum."""
    cuda = torch.backends.cuda.matmul
    return [cuda.allow_fp16_reduced_precision_reduction, cuda.allow_bf16_reduced_precision_reduction,
            cuda.allow_fp16_accumulation, cuda.allow_tf32, torch.get_float32_matmul_precision()]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_products_are_summed_in_float32_whatever_was_allowed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = torch.mm, []

    def watched(*args: torch.Tensor, **kinds: torch.Tensor) -> torch.Tensor:
        seen.append(rules())
        return real(*args, **kinds)

    monkeypatch.setattr(torch, "mm", watched)
    images, texts = embeddings(20, 30)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        allowed = rules()
        one = task(images=20, texts=60, wanted=(5, 2))
        mine_lists(one, choose_screen(one.images, one.texts, kind, CPU), 1 << 12)
        assert rules() == allowed
        with pytest.raises(RuntimeError):
            Screen(kind, CPU, 1.0, 1.0).product(images, texts[:, 1:])
        assert rules() == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen) > 2
    assert all(found == [False, False, False, False, "highest"] for found in seen)
