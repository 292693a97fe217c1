"""train/scoring/two_stage.py: candidates by vectors, scores of them alone, and what that may cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from data.batches.pairs import PairIndex
from model.matcher import Matcher, Side
from tests.ranks import on_ranks
from tests.samples import lively, small
from tests.train.scoring.test_scorer import matrix as exact_matrix
from tests.train.scoring.test_scorer import scorer
from train.distributed.comm import Comm, Solo
from train.scoring import two_stage
from train.scoring.scorer import Scorer
from train.scoring.two_stage import TwoStage, check_two_stage, names_of, nearest, shortlist_facts

Array = np.ndarray


@pytest.fixture(params=["bfan", "vsrn"])
def matcher(request: pytest.FixtureRequest) -> Matcher:
    return lively(small(request.param))


def found_by(matcher: Matcher, keep: int, index: PairIndex, folder: Path, tokens: int = 60,
             comm: Comm | None = None, said: Any = lambda *_: None) -> tuple[Array, dict[str, Any]] | None:
    return TwoStage(scorer(matcher, tokens, comm), keep).matrix(index, folder, said)


def made(*args: Any, **options: Any) -> tuple[Array, dict[str, Any]]:
    found = found_by(*args, **options)
    assert found is not None
    return found


def vectors(matcher: Matcher, index: PairIndex) -> tuple[Array, Array]:
    """Those of all images and texts, one by one."""
    one = scorer(matcher)
    with torch.inference_mode():
        images = [matcher.pooled_images(one.encode_images(index, np.array([n])))[0] for n in range(len(index.images))]
        texts = [matcher.pooled_texts(one.encode_texts(index, np.array([n])))[0] for n in range(len(index.texts))]
    return torch.stack(images).numpy(), torch.stack(texts).numpy()


@pytest.mark.parametrize("keep", [1, 3])
def test_candidates_alone_have_their_exact_score(keep: int, matcher: Matcher, index: PairIndex,
                                                 tmp_path: Path) -> None:
    exact = exact_matrix(scorer(matcher), index, tmp_path / "exact")
    found, known = made(matcher, keep, index, tmp_path / "found")
    images, texts = vectors(matcher, index)
    near = images @ texts.T
    of_image, of_text = np.sort(near, 1)[:, -keep, None], np.sort(near, 0)[-keep]
    scored = found > -np.inf
    # Captions of the same words are as near but for their last bits, and only the first of them may be chosen.
    assert (scored >= ((near > of_image + 1e-5) | (near > of_text + 1e-5))).all()
    assert (scored <= ((near > of_image - 1e-5) | (near > of_text - 1e-5))).all()
    assert min(scored.sum(1).min(), scored.sum(0).min()) == keep
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[scored], exact[scored], atol=2e-5)
    assert known["scored"] == scored.mean()
    assert 0 < known["scored"] < 0.3
    assert known["k"] == keep
    assert known["seconds"].keys() == {"encode", "search", "score"}
    assert not any(tmp_path.iterdir())


def test_as_many_candidates_as_there_are_give_the_whole_matrix(matcher: Matcher, index: PairIndex,
                                                               tmp_path: Path) -> None:
    exact = exact_matrix(scorer(matcher), index, tmp_path)
    for keep in (len(index.texts), 10**6):
        found, known = made(matcher, keep, index, tmp_path)
        np.testing.assert_allclose(found, exact, atol=2e-5)
        assert known["scored"] == known["ceiling"]["txt"] == known["ceiling"]["img"] == 1


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_change_no_bit(size: int, matcher: Matcher, index: PairIndex, tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matcher, "encode_chunk", 5)
    alone, known = made(matcher, 3, index, tmp_path / "alone")
    shared, *others = on_ranks(size, lambda comm: found_by(matcher, 3, index, tmp_path / "shared", comm=comm))
    assert others == [None] * (size - 1)
    assert shared is not None
    assert shared[0].tobytes() == alone.tobytes()
    assert {**shared[1], "seconds": 0} == {**known, "seconds": 0}


def test_any_block_size_gives_the_same_scores(matcher: Matcher, index: PairIndex, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = made(matcher, 3, index, tmp_path, tokens=10**6)
    monkeypatch.setattr(two_stage, "AT_ONCE", 100)
    monkeypatch.setattr(two_stage, "POOLED_AT_ONCE", 7)
    for tokens in (1, 40, 333):
        found, _ = made(matcher, 3, index, tmp_path, tokens=tokens)
        np.testing.assert_allclose(found, whole, atol=2e-5)


def test_killed_it_goes_on_where_it_was(matcher: Matcher, index: PairIndex, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(done: int, _: int) -> None:
        if done == 2:
            raise Killed

    whole, _ = made(matcher, 3, index, tmp_path / "whole")
    with pytest.raises(Killed):
        made(matcher, 3, index, tmp_path / "cut", said=die)
    assert len(list((tmp_path / "cut").iterdir())) == 2
    told: list[int] = []
    again, _ = made(matcher, 3, index, tmp_path / "cut", said=lambda done, _: told.append(done))
    assert told[0] == 3
    assert again.tobytes() == whole.tobytes()


def test_scores_of_other_candidates_have_other_names() -> None:
    chosen, blocks = np.zeros((4, 9), bool), [slice(0, 5), slice(5, 7)]
    names = names_of(blocks, chosen)
    chosen[3, 8] = True
    assert len({*names, *names_of(blocks, chosen)}) == 4
    assert names[0].endswith("-000000000-000000005.npy")


def test_a_matchers_own_vectors_find_the_candidates(matcher: Matcher, index: PairIndex, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are alike to it, so that the first texts in order are nearest to each; so the other way round."""
    ones = lambda _, side: torch.ones(len(side), 4)  # noqa: E731
    monkeypatch.setattr(type(matcher), "pooled_images", ones)
    monkeypatch.setattr(type(matcher), "pooled_texts", ones)
    found, _ = made(matcher, 2, index, tmp_path)
    wanted = np.zeros(found.shape, bool)
    wanted[:, :2] = wanted[:2] = True
    assert np.array_equal(found > -np.inf, wanted)


def test_candidates_are_found_in_full_precision(matcher: Matcher, index: PairIndex, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    kinds, product = set(), two_stage.nearest

    def noted(queries: Tensor, others: Tensor, keep: int) -> Array:
        kinds.add((queries @ others.T).dtype)
        return product(queries, others, keep)

    monkeypatch.setattr(two_stage, "nearest", noted)
    half = Scorer(matcher, Solo(), torch.device("cpu"), lambda: torch.autocast("cpu", torch.bfloat16), 60)
    assert TwoStage(half, 3).matrix(index, tmp_path, lambda *_: None) is not None
    assert kinds == {torch.float32}


@pytest.mark.parametrize(("which", "what"), [("pooled_images", "image a_000007.npz"), ("pooled_texts", "caption 20")])
def test_a_vector_that_is_not_finite_names_its_item(which: str, what: str, matcher: Matcher, index: PairIndex,
                                                    tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = {"image": index.images, "caption": index.texts}[what.split()[0]].index(what.split()[1])
    lengths = index.regions if which == "pooled_images" else index.words
    place = int(np.flatnonzero(np.argsort(lengths, kind="stable") == number)[0])

    def spoilt(_: Matcher, side: Side) -> Tensor:
        values = torch.ones(len(side), 4)
        values[place] = torch.nan
        return values

    monkeypatch.setattr(type(matcher), which, spoilt)
    with pytest.raises(DataError, match=f"the vector of {re.escape(what)} is not finite; use --precision off"):
        made(matcher, 2, index, tmp_path)


@pytest.mark.parametrize("keep", [1, 2, 4, 6, 9])
def test_the_nearest_are_the_largest_products_and_the_first_of_equal_ones(
    keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_stage, "AT_ONCE", 13)
    rng = np.random.default_rng(keep)
    queries, others = (rng.integers(-1, 2, (size, 2)).astype(np.float32) for size in (11, 6))
    found = nearest(torch.from_numpy(queries), torch.from_numpy(others), keep)
    order = np.argsort(-(queries @ others.T), axis=1, kind="stable")[:, :keep]
    assert np.array_equal(found, [[other in row for other in range(6)] for row in order.tolist()])


def test_no_recall_exceeds_the_share_of_queries_with_a_right_candidate() -> None:
    """Two images with texts 0, 1 and 2, and one without."""
    chosen = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
    known = shortlist_facts(2, chosen, np.array([0, 0, 1]))
    assert known == {"k": 2, "scored": 5 / 9, "ceiling": {"txt": 1 / 2, "img": 1 / 3}}


def test_pairs_that_only_meet_inside_the_model_have_no_candidates() -> None:
    check_two_stage(0, small("uniter"))
    check_two_stage(50, small("bfan"))
    with pytest.raises(ConfigError, match="two_stage=50: matcher uniter sees images only together with texts"):
        check_two_stage(50, small("uniter"))


def test_dropout_is_off(index: PairIndex, tmp_path: Path) -> None:
    matcher = lively(small("vsrn"))
    first, _ = made(matcher.train(), 3, index, tmp_path)
    assert made(matcher, 3, index, tmp_path)[0].tobytes() == first.tobytes()
    assert not matcher.training
