"""recall.py against hand-made cases, a brute force with ties, and the golden numbers if at hand."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from config.errors import ConfigError, DataError
from train.scoring.recall import TOP, chance, count, fold_recalls, order_candidates, rank_images, rank_texts, recalls

GOLDEN = Path(__file__).parents[4] / "shared/golden/uniter"


def golden(case):
    folder = GOLDEN / case
    if not folder.is_dir():
        pytest.skip(f"golden case {case} is not beside the project")
    inputs, expected = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "expected"))
    return inputs["score_matrix"].T, inputs["txt2img"], expected


def brute_force(scores, owner, direction):
    """(above, equal, before) of every query, by comparing one candidate at a time."""
    found = []
    images, texts = scores.shape
    if direction == "img":
        for t in range(texts):
            rivals = [i for i in range(images) if i != owner[t]]
            found.append(standing(scores[:, t], scores[owner[t], t], owner[t], rivals))
        return found
    for i in range(images):
        right = [t for t in range(texts) if owner[t] == i]
        if right:
            best = max(right, key=lambda t: scores[i, t])  # the first of equal ones
            found.append(standing(scores[i], scores[i, best], best, [t for t in range(texts) if owner[t] != i]))
    return found


def standing(values, positive, place, rivals):
    if positive == -np.inf:  # never scored: behind all
        return len(rivals), 0, 0
    equal = [rival for rival in rivals if values[rival] == positive]
    return sum(values[rival] > positive for rival in rivals), len(equal), sum(rival < place for rival in equal)


def listed_ranks(scores, owner, direction):
    """Ranks by the published words: strictly larger scores, and equal ones with a smaller index; best of the right."""
    ranks = []
    values, right = (scores.T, owner[:, None]) if direction == "img" else (scores, None)
    for query, row in enumerate(values):
        answers = right[query] if right is not None else np.flatnonzero(owner == query)
        each = [(row > row[at]).sum() + (row[:at] == row[at]).sum() if row[at] > -np.inf else len(row) - len(answers)
                for at in answers]
        ranks += [min(each)] if each else []
    return ranks


@st.composite
def tied_matrices(draw):
    images, texts = draw(st.integers(1, 9)), draw(st.integers(1, 24))
    values = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])
    scores = draw(st.lists(values, min_size=images * texts, max_size=images * texts))
    owner = draw(st.lists(st.integers(0, images - 1), min_size=texts, max_size=texts))
    kind = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    return np.array(scores, kind).reshape(images, texts), np.array(owner)


@given(tied_matrices())
@settings(max_examples=150, deadline=None)
def test_counts_agree_with_a_brute_force(case):
    scores, owner = case
    for direction, counts in zip(("txt", "img"), count(scores, owner), strict=True):
        told = list(zip(counts.above, counts.equal, counts.before, strict=True))
        assert told == brute_force(scores, owner, direction)


@given(tied_matrices())
@settings(max_examples=150, deadline=None)
def test_ties_by_index_are_the_published_ranks(case):
    scores, owner = case
    assert rank_images(scores, owner, "index").tolist() == listed_ranks(scores, owner, "img")
    assert rank_texts(scores, owner, "index").tolist() == listed_ranks(scores, owner, "txt")


@given(tied_matrices())
@settings(max_examples=60, deadline=None)
def test_candidates_in_order_have_the_right_answer_at_its_rank(case):
    scores, owner = case
    right = owner == np.arange(len(scores))[:, None]
    for ties in ("pessimistic", "optimistic", "index"):
        for values, is_right, ranks in ((scores.T, right.T, rank_images(scores, owner, ties)),
                                        (scores, right, rank_texts(scores, owner, ties))):
            asked = is_right.any(1)
            order = order_candidates(values, is_right, ties)
            assert (np.take_along_axis(is_right, order, 1).argmax(1)[asked] == ranks).all()
            ordered = np.take_along_axis(values, order, 1)
            assert (ordered[:, 1:] <= ordered[:, :-1]).all()
            if ties == "index":
                scored = values.max(1) > -np.inf
                assert (order[scored, 0] == values[scored].argmax(1)).all(), "the first of the highest"


def test_ties_by_index_across_blocks():
    """More rows than one block holds; ties before, in and behind the block of the own image."""
    rng = np.random.default_rng(0)
    images, texts = 600, 900
    scores = rng.integers(0, 4, (images, texts)).astype(np.float64)
    owner = rng.permutation(np.arange(texts) % images)
    assert rank_images(scores, owner, "index").tolist() == listed_ranks(scores, owner, "img")
    assert rank_texts(scores, owner, "index").tolist() == listed_ranks(scores, owner, "txt")


def test_scores_in_float64_are_compared_as_they_are():
    """Differences that float32 cannot hold are no ties."""
    scores = np.array([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0]])
    assert rank_images(scores, np.arange(2), "optimistic").tolist() == [1, 1]
    assert rank_images(scores.astype(np.float32), np.arange(2), "optimistic").tolist() == [0, 0]
    assert recalls(scores, np.arange(2))["ties_in_top10"] == 0


def test_a_median_between_two_ranks_is_rounded_down_only_with_ties_by_index_or_where_it_is_wanted():
    scores = np.array([[0.9, 0.5], [0.1, 0.4]])  # texts at ranks 0 and 1 of two
    owner = np.array([0, 1])
    assert recalls(scores, owner, "index")["img_medr"] == 1
    assert recalls(scores, owner)["img_medr"] == 1.5
    floored = recalls(scores, owner, median_rank="floor")
    assert floored == recalls(scores, owner) | {"img_medr": 1, "txt_medr": floored["txt_medr"]}
    # A whole middle stays: (1 + 3) / 2 = 2; another is cut, not the lower rank taken: (1 + 4) / 2 = 2.5, not 1.
    for places, exact in ((np.array([0, 1, 3, 6]), 3), (np.array([0, 1, 4, 6]), 3.5)):
        scores = (np.arange(10)[:, None] < places).astype(float)
        scores[9] = 0.5
        owner = np.full(4, 9)
        assert rank_images(scores, owner).tolist() == places.tolist()
        assert recalls(scores, owner)["img_medr"] == exact
        assert recalls(scores, owner, "index")["img_medr"] == 3
        assert recalls(scores, owner, median_rank="floor")["img_medr"] == 3


def test_mean_ranks_and_the_selection_sums():
    rng = np.random.default_rng(3)
    scores, owner = rng.normal(size=(30, 90)), np.arange(90) // 3
    found = recalls(scores, owner)
    assert found["img_meanr"] == pytest.approx(rank_images(scores, owner).mean() + 1)
    assert found["txt_meanr"] == pytest.approx(rank_texts(scores, owner).mean() + 1)
    assert found["r1r5"] == pytest.approx(100 * sum(found[name] for name in ("txt_r1", "txt_r5", "img_r1", "img_r5")))
    assert found["rsum"] - found["r1r5"] == pytest.approx(100 * (found["txt_r10"] + found["img_r10"]))


@given(tied_matrices())
@settings(max_examples=100, deadline=None)
def test_tie_policies_are_ordered_and_recalls_grow_with_k(case):
    results = [recalls(*case, ties=ties) for ties in ("pessimistic", "mean", "optimistic")]
    for name in [f"{way}_r{top}" for way in ("txt", "img") for top in TOP]:
        low, middle, high = (result[name] for result in results)
        assert 0 <= low <= middle <= high <= 1
    for result in results:
        assert result["txt_r1"] <= result["txt_r5"] <= result["txt_r10"]
        assert result["img_r1"] <= result["img_r5"] <= result["img_r10"]


@pytest.mark.parametrize("case", ["itm_eval_a", "itm_eval_half"])
@pytest.mark.parametrize("ir_count", ["correct", "legacy"])
def test_golden_recalls(case, ir_count):
    scores, owner, expected = golden(case)
    prefix = "fixed." if ir_count == "correct" else "parity."
    ours = recalls(scores, owner, ir_count=ir_count)
    names = [name.removeprefix(prefix) for name in expected if name.startswith(prefix)]
    assert len(names) == 9
    for name in names:
        assert ours[name] == pytest.approx(float(expected[prefix + name]), rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("case", ["itm_eval_a", "itm_eval_half"])
def test_golden_ranks_are_the_strictly_higher_candidates(case):
    scores, owner, expected = golden(case)
    np.testing.assert_array_equal(rank_images(scores, owner, "optimistic"), expected["image_rank_of_gt"])
    np.testing.assert_array_equal(rank_texts(scores, owner, "optimistic"),
                                  expected["best_caption_rank"][np.unique(owner)])


@pytest.mark.parametrize("ties", ["optimistic", "pessimistic"])
def test_golden_ties(ties):
    scores, owner, expected = golden("itm_eval_ties_a")
    ours = recalls(scores, owner, ties=ties)
    for name, value in expected.items():
        if name.startswith(ties):
            assert ours[name.removeprefix(ties + ".")] == pytest.approx(float(value), abs=1e-6), name
    assert ours["ties_in_top10"] > 0


def test_a_small_matrix_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.2, 0.8, 0.4, 0.6]], np.float32)  # two images, two texts each
    owner = np.array([0, 0, 1, 1])
    np.testing.assert_array_equal(rank_images(scores, owner), [0, 1, 1, 0])  # text 1 ties: last by default
    np.testing.assert_array_equal(rank_images(scores, owner, "optimistic"), [0, 0, 1, 0])
    np.testing.assert_array_equal(rank_images(scores, owner, "mean"), [0, 0.5, 1, 0])
    np.testing.assert_array_equal(rank_texts(scores, owner), [0, 1])
    values = recalls(scores, owner)
    assert values["img_r1"] == 0.5
    assert values["txt_r1"] == 0.5
    assert values["img_medr"] == 1.5
    assert values["rsum"] == pytest.approx(50 + 100 + 100 + 50 + 100 + 100)
    assert values["ties_in_top10"] == pytest.approx(1 / 6)
    assert recalls(scores, owner, ties="mean")["img_r1"] == 0.5  # half a place behind is not the first place


def test_a_right_text_equal_to_the_best_right_text_is_no_rival():
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(rank_texts(scores, np.array([0, 0, 1])), [0, 0])


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic", "mean", "index"])
def test_a_positive_that_was_not_scored_is_behind_everything(ties):
    """However ties are counted, and where nothing else was scored either."""
    none = -np.inf
    scores = np.array([[none, 0.5, none], [0.2, none, none], [none, none, 0.1], [0.3, 0.1, none]], np.float32)
    owner = np.array([0, 1, 2])
    assert rank_images(scores, owner, ties).tolist() == [3, 3, 0]
    assert rank_texts(scores, owner, ties).tolist() == [2, 2, 0]
    nothing = recalls(np.full((20, 60), none, np.float16), np.arange(60) % 20, ties)
    assert (nothing["rsum"], nothing["ties_in_top10"]) == (0, 0)
    assert nothing["img_meanr"] == 20
    assert nothing["txt_meanr"] == 58
    with pytest.raises(DataError, match="NaN at image 0, text 1"):
        recalls(np.array([[none, np.nan], [none, 1.0]]), np.arange(2), ties)


def test_images_without_texts_answer_but_do_not_ask():
    scores = np.array([[0.1, 0.2], [0.9, 0.3], [0.5, 0.1]])
    owner = np.array([2, 2])
    assert rank_texts(scores, owner).tolist() == [0]
    assert rank_images(scores, owner).tolist() == [1, 2]


def test_constant_scores_are_no_success():
    """A collapsed model that scores every pair alike is at the bottom, not at the top."""
    scores, owner = np.zeros((20, 100), np.float32), np.repeat(np.arange(20), 5)
    values = recalls(scores, owner)
    assert values["rsum"] == 0
    assert values["ties_in_top10"] == 1
    assert recalls(scores, owner, ties="optimistic")["rsum"] == 600


def test_folds_are_the_mean_of_the_parts():
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat(np.arange(12), 3))  # texts in any order
    scores = rng.normal(size=(12, 36)).astype(np.float32)
    parts = []
    for start in (0, 4, 8):
        texts = np.flatnonzero((owner >= start) & (owner < start + 4))
        parts.append(recalls(scores[start:start + 4, texts], owner[texts] - start))
    folded = recalls(scores, owner, folds=3)
    assert fold_recalls(scores, owner, folds=3) == parts
    assert folded == {name: pytest.approx(np.mean([part[name] for part in parts])) for name in folded}
    assert folded["img_r5"] == 1  # four images in a fold
    with pytest.raises(DataError, match="5 equal folds"):
        recalls(scores, owner, folds=5)


def test_chance_agrees_with_random_scores():
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(15), [1, 2, 3, 4, 5] * 3)
    drawn = [recalls(rng.normal(size=(15, len(owner))), owner) for _ in range(300)]
    for name, value in chance(owner, 15).items():
        assert np.mean([draw[name] for draw in drawn]) == pytest.approx(value, abs=0.02), name
    assert chance(owner, 15, folds=3)["img_r1"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(("scores", "owner", "said"), [
    (np.zeros((2, 3)), [0, 1], "does not fit"),
    (np.zeros((2, 2)), [0, 2], "from 0 to 1"),
    (np.zeros((2, 2)), [0, -1], "from 0 to 1"),
    (np.zeros((2, 2)), [0.0, 1.0], "whole numbers"),
    (np.zeros((2, 0)), [], "not one text"),
    (np.array([[0.0, 1.0], [np.nan, 0.0]]), [0, 1], "NaN at image 1, text 0"),
])
def test_what_cannot_be_ranked_is_refused(scores, owner, said):
    with pytest.raises(DataError, match=said):
        recalls(scores, np.array(owner))


def test_unknown_options_are_refused():
    scores, owner = np.eye(2), np.arange(2)
    with pytest.raises(ConfigError, match="pessimistic, optimistic, mean, index"):
        recalls(scores, owner, ties="lucky")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exact, floor"):
        recalls(scores, owner, median_rank="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="correct, legacy"):
        recalls(scores, owner, ir_count="wrong")  # type: ignore[arg-type]


def test_a_memory_map_of_many_blocks_is_quick(tmp_path):
    images, each = 1000, 5
    scores = np.lib.format.open_memmap(tmp_path / "matrix.npy", "w+", np.float32, (images, images * each))
    scores[:] = np.random.default_rng(0).standard_normal(scores.shape, np.float32)
    owner = np.repeat(np.arange(images), each)
    scores[owner, np.arange(images * each)] += 4
    started = time.perf_counter()
    values = recalls(scores, owner)
    assert time.perf_counter() - started < 5
    assert 0.5 < values["img_r10"] < 1
    for text in (0, 2500, 4999):
        assert rank_images(scores, owner)[text] == (scores[:, text] > scores[owner[text], text]).sum()
