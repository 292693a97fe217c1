"""The parts of the page of patches: cells, runs, rows, and words merged from their pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scripts.page.pairs import Picture, Subject, Words
from scripts.page.patches import Row, Slimmed, cells, rows_of, runs, view_of

KEPT = np.array([True, True, False, True, False, False, False, True, True])
SUBJECT = Subject(0, 0, "one", "a dog", Words(["a", "dog"], np.array([0, 1, 1])), Picture("picture-0", "", 300.0),
                  ["picture one"], ["a note"])


def found(cosines: list[list[float]], **others: object) -> Slimmed:
    """A pair of two aggregated patches; `cosines [h, w]`."""
    weights = np.where(KEPT, [[0.2], [0.1]], 0)
    slimmed = Slimmed(KEPT, np.zeros(9), weights, np.where(KEPT, 0, 0.25), np.array(cosines), True, 0.5, 0.25, True,
                      False)
    return replace(slimmed, **others)


def test_cells_tell_place_and_weight() -> None:
    weights = np.array([0.8, 0.1, 0, 0.05, 0, 0, 0, 0.05, 0])
    shown = cells(weights, KEPT)
    assert [(cell.row, cell.column) for cell in shown] == [(0, 0), (0, 1), (1, 0), (2, 1), (2, 2)]
    assert [cell.weight for cell in shown] == [0.8, 0.1, 0.05, 0.05, 0]


@pytest.mark.parametrize(("weights", "strengths"), [
    ([0.8, 0.2, 0, 0, 0, 0, 0, 0], [1, 0.25, 0, 0, 0, 0, 0, 0]),
    ([0.25, 0.75 / 7] + 6 * [0.75 / 7], [0.5] + 7 * [1.5 / 7]),
    ([0.125] * 8, [0.25] * 8),
    ([0.75, 0.25], [0.75, 0.25]),
    ([1.0], [1.0]),
])
def test_what_is_spread_evenly_is_pale(weights: list[float], strengths: list[float]) -> None:
    padded = np.array(weights + [0] * (9 - len(weights)))
    shown = cells(padded, np.arange(9) < len(weights))
    assert [cell.strength for cell in shown] == pytest.approx(strengths)


def test_no_patch_is_no_cell() -> None:
    assert cells(np.ones(9), np.zeros(9, bool)) == []
    assert list(runs(np.zeros(9, bool))) == []


def test_runs_hold_neighbours_of_a_row_together() -> None:
    assert list(runs(KEPT)) == [(0, 0, 2), (0, 1, 1), (1, 2, 2)]
    assert list(runs(~KEPT)) == [(2, 0, 1), (1, 1, 2), (0, 2, 1)]


def kinds(rows: list[Row]) -> list[str]:
    return [row.kind for row in rows]


def test_rows_are_those_that_the_cosines_have() -> None:
    four = [[0.0] * 5] * 4
    rows = rows_of(found(four))
    assert kinds(rows) == ["whole", "aggregated", "aggregated", "fused"]
    assert [cell.weight for cell in rows[1].cells] == [0.2] * 5
    assert [cell.weight for cell in rows[3].cells] == [0.25] * 4
    assert kinds(rows_of(found(four, fused=None))) == ["whole", "aggregated", "aggregated", "zeros"]
    assert kinds(rows_of(found(four[:3], fused=None))) == ["whole", "aggregated", "aggregated"]
    assert kinds(rows_of(found(four[:2], fused=None, has_whole=False))) == ["aggregated", "aggregated"]


def test_a_word_takes_the_row_that_its_pieces_find_together() -> None:
    # Each piece of "dog" has another best row; their mean is highest at the third.
    view = view_of(SUBJECT, found([[0, 0.1, 0.8, 0, 0.9],
                                   [0.2, 0, 0, 0.8, 0],
                                   [0, 0.3, 0.6, 0.6, 0],
                                   [0, 0, 0, 0, 0.5]]))
    assert [(match.word, match.row.name, match.cosine, match.finders) for match in view.matches] == [
        ("a", "aggregated patch 2", 0.3, 0), ("dog", "aggregated patch 2", 0.6, 2),
        ("[CLS]", "aggregated patch 1", 0.2, 0), ("[SEP]", "whole picture", 0.9, 2)]
    last = view.matches[-1]
    assert (last.drawn.name, last.drawn_cosine) == ("fused patch", 0.5)
    assert all(match.row is match.drawn for match in view.matches[:-1])
    assert view.facts == ["picture one", "score 0.75", "a note"]
    assert view.unread == []


def test_pieces_that_come_too_late_leave_a_word_those_before() -> None:
    cosines = [[0.1, 0.2, 0.9], [0, 0, 0.1], [0, 0, 0], [0, 0, 0]]
    view = view_of(SUBJECT, found(cosines))
    assert [match.word for match in view.matches] == ["a", "dog", "[CLS]"]
    assert view.matches[1].cosine == 0.9
    assert view.unread == ["[SEP]"]
