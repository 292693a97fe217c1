"""train/scoring/scorer.py: one matrix, however it is cut, killed or shared out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.batches.pairs import PairIndex
from model.matcher import Matcher
from tests.ranks import on_ranks
from tests.samples import lively, small
from tests.train.conftest import Pretended
from train.distributed.comm import Comm, Solo
from train.scoring import scorer as scoring
from train.scoring.resumable_chunks import ResumableChunks
from train.scoring.scorer import Scorer, as_bytes, fingerprint, read_images, read_texts, shared_fingerprint

Array = np.ndarray


class Killed(BaseException):
    """The process ends here."""


def off() -> Any:
    return torch.autocast("cpu", enabled=False)


def scorer(matcher: Matcher, tokens: int = 600, comm: Comm | None = None) -> Scorer:
    return Scorer(matcher, comm or Solo(), torch.device("cpu"), off, tokens)


def matrix(scorer: Scorer, index: PairIndex, folder: Path, said: Any = lambda *_: None) -> Array:
    found = scorer.matrix(index, folder, said)
    assert found is not None
    return found


@pytest.fixture
def matcher() -> Matcher:
    return lively(small("uniter"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images were decoded, and how many pairs scored."""
    counts = {"decoded": 0, "pairs": 0}
    read, score = PairIndex.read_images, Matcher.score

    def counting_read(self: PairIndex, images: Any, *args: Any) -> None:
        counts["decoded"] += len(images)
        read(self, images, *args)

    def counting_score(self: Matcher, images: Any, texts: Any) -> torch.Tensor:
        counts["pairs"] += len(images) * len(texts)
        return score(self, images, texts)

    monkeypatch.setattr(PairIndex, "read_images", counting_read)
    monkeypatch.setattr(Matcher, "score", counting_score)
    return counts


def one_by_one(matcher: Matcher, index: PairIndex) -> Array:
    """Each pair scored alone."""
    matcher.eval()
    values = np.empty((len(index.images), len(index.texts)), np.float32)
    with torch.inference_mode():
        for image in range(len(index.images)):
            for text in range(len(index.texts)):
                one, other = read_images(index, [image]), read_texts(index, [text])
                values[image, text] = matcher.score(matcher.encode_image(one), matcher.encode_text(other)).item()
    return values


def test_it_is_every_pair_scored_alone(matcher: Matcher, index: PairIndex, tmp_path: Path) -> None:
    found = matrix(scorer(matcher), index, tmp_path)
    assert found.dtype == np.float32
    assert found.std() > 0.1
    np.testing.assert_allclose(found, one_by_one(matcher, index), atol=1e-5)


def test_any_tile_size_gives_the_same_matrix(matcher: Matcher, index: PairIndex, tmp_path: Path) -> None:
    whole = matrix(scorer(matcher, 10**6), index, tmp_path)
    for tokens in (1, 40, 333, 5000):
        np.testing.assert_allclose(matrix(scorer(matcher, tokens), index, tmp_path), whole, atol=1e-5)


def test_tiles_stay_within_their_tokens(matcher: Matcher, index: PairIndex, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    largest, score = 0, Matcher.score

    def watched(self: Matcher, images: Any, texts: Any) -> torch.Tensor:
        nonlocal largest
        tokens = len(images) * int(texts.rows.lengths.sum()) + len(texts) * int(images.rows.lengths.sum())
        largest = max(largest, tokens)
        return score(self, images, texts)

    monkeypatch.setattr(Matcher, "score", watched)
    matrix(scorer(matcher, 500), index, tmp_path)
    assert 250 < largest <= 500


def test_each_image_is_decoded_once(matcher: Matcher, index: PairIndex, tmp_path: Path,
                                    counted: dict[str, int]) -> None:
    matrix(scorer(matcher, 300), index, tmp_path)
    assert counted == {"decoded": len(index.images), "pairs": len(index.images) * len(index.texts)}


def stop_after(stripes: int) -> Any:
    def said(done: int, of: int) -> None:
        assert of > stripes + 1
        if done == stripes:
            raise Killed

    return said


def test_killed_at_a_stripe_it_goes_on_there_and_ends_the_same(
    matcher: Matcher, index: PairIndex, tmp_path: Path, counted: dict[str, int]
) -> None:
    whole = matrix(scorer(matcher), index, tmp_path / "whole")
    pairs = counted["pairs"]
    with pytest.raises(Killed):
        matrix(scorer(matcher), index, tmp_path / "cut", stop_after(3))
    first = counted["pairs"] - pairs
    assert 0 < first < pairs
    told = []
    again = matrix(scorer(matcher), index, tmp_path / "cut", lambda done, of: told.append((done, of)))
    assert again.tobytes() == whole.tobytes()
    assert counted["pairs"] == 2 * pairs, "no finished stripe is scored twice"
    assert told[0][0] == 4
    assert told[-1][0] == told[-1][1]


def test_a_stripe_half_written_counts_as_none(
    matcher: Matcher, index: PairIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = matrix(scorer(matcher), index, tmp_path / "whole")
    save, count = np.save, 0

    def dying(file: Any, values: Array) -> None:
        nonlocal count
        count += 1
        if count == 3:
            file.write(b"\x93NUMPY")
            raise Killed
        save(file, values)

    with monkeypatch.context() as patch:
        patch.setattr(scoring.np, "save", dying)
        with pytest.raises(Killed):
            matrix(scorer(matcher), index, tmp_path / "cut")
    assert matrix(scorer(matcher), index, tmp_path / "cut").tobytes() == whole.tobytes()


def test_stripes_are_gone_when_the_matrix_is_whole(matcher: Matcher, index: PairIndex, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        matrix(scorer(matcher), index, tmp_path / "cut", stop_after(3))
    assert any((tmp_path / "cut").iterdir())
    matrix(scorer(matcher), index, tmp_path / "cut")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("size", [2, 3])
def test_two_ranks_make_the_matrix_of_one(size: int, matcher: Matcher, index: PairIndex, tmp_path: Path,
                                          counted: dict[str, int]) -> None:
    alone = matrix(scorer(matcher), index, tmp_path / "alone")
    pairs = counted["pairs"]
    for rank in range(1, size):
        assert scorer(matcher, comm=Pretended(rank, size)).matrix(index, tmp_path / "shared", lambda *_: None) is None
        assert 0 < counted["pairs"] - pairs < pairs
    shared = matrix(scorer(matcher, comm=Pretended(0, size)), index, tmp_path / "shared")
    assert shared.tobytes() == alone.tobytes()
    assert counted["pairs"] == 2 * pairs


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", ["vsrn", "bfan"])
def test_ranks_share_the_encoding_and_change_no_bit(
    name: str, size: int, index: PairIndex, tmp_path: Path, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Matcher, "encode_chunk", 5)
    matcher = lively(small(name))
    alone = matrix(scorer(matcher, 60), index, tmp_path / "alone")
    assert counted["decoded"] == len(index.images)

    def work(comm: Comm) -> Array | None:
        return scorer(matcher, 60, comm).matrix(index, tmp_path / "shared", lambda *_: None)

    shared, *others = on_ranks(size, work)
    assert others == [None] * (size - 1)
    assert shared is not None
    assert shared.tobytes() == alone.tobytes()
    idle = -5 % size  # of five chunks; who has none shows its shape by one image
    assert counted["decoded"] == 2 * len(index.images) + idle


def test_a_rank_with_nothing_left_still_shares_in_the_encoding(
    index: PairIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Matcher, "encode_chunk", 5)
    matcher = lively(small("bfan"))
    with monkeypatch.context() as patch:
        patch.setattr(ResumableChunks, "clear", lambda _: None)
        alone = matrix(scorer(matcher, 60), index, tmp_path)
    for stripe in sorted(tmp_path.iterdir())[1::2]:
        stripe.unlink()
    shared, _ = on_ranks(2, lambda comm: scorer(matcher, 60, comm).matrix(index, tmp_path, lambda *_: None))
    assert shared is not None
    assert shared.tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", ["vsrn", "bfan"])
def test_any_block_size_gives_the_same_scores(name: str, index: PairIndex, tmp_path: Path) -> None:
    matcher = lively(small(name))
    whole = matrix(scorer(matcher, 10**6), index, tmp_path)
    np.testing.assert_allclose(whole, one_by_one(matcher, index), atol=2e-5)
    for tokens in (1, 40, 333):
        np.testing.assert_allclose(matrix(scorer(matcher, tokens), index, tmp_path), whole, atol=2e-5)


def test_scoring_leaves_no_gradient_and_no_dropout(index: PairIndex, tmp_path: Path) -> None:
    matcher = small("uniter").train()
    first = matrix(scorer(matcher), index, tmp_path)
    assert matrix(scorer(matcher), index, tmp_path).tobytes() == first.tobytes()


def test_half_precision_scores_are_kept_in_float32(matcher: Matcher, index: PairIndex, tmp_path: Path) -> None:
    half = Scorer(matcher, Solo(), torch.device("cpu"), lambda: torch.autocast("cpu", torch.bfloat16), 600)
    found = matrix(half, index, tmp_path)
    assert found.dtype == np.float32
    exact = matrix(scorer(matcher), index, tmp_path)
    assert 0 < np.abs(found - exact).max() < 0.2 * np.abs(exact).max()


def test_the_fingerprint_is_of_weights_and_names(matcher: Matcher, index: PairIndex) -> None:
    before = fingerprint(matcher, index)
    assert before == fingerprint(lively(small("uniter")), index)
    with torch.no_grad():
        matcher.rank.bias.add_(1e-6)  # type: ignore[union-attr, operator]
    assert fingerprint(matcher, index) != before


def test_one_rank_makes_the_fingerprint_for_all(matcher: Matcher, index: PairIndex,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    alone, made = fingerprint(matcher, index), []
    monkeypatch.setattr(scoring, "fingerprint", lambda *given: made.append(0) or fingerprint(*given))
    assert on_ranks(3, lambda comm: shared_fingerprint(matcher, index, comm)) == [alone] * 3
    assert made == [0]


def test_regions_are_read_by_one_thread(index: PairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, read = [], PairIndex.read_images
    monkeypatch.setattr(PairIndex, "read_images", lambda *args: calls.append(0) or read(*args))
    assert len(read_images(index, [3, 1, 2], 4)) == 3
    assert calls == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_any_type_have_bytes(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 0], [3, 1]]).to(dtype)
    assert len(as_bytes(tensor.T)) == 4 * tensor.element_size()
    assert len(as_bytes(torch.tensor(1, dtype=dtype))) == tensor.element_size()
