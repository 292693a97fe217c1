"""charts.py: series with gaps, of one point, of none and of very many."""

from __future__ import annotations

import xml.etree.ElementTree as Tree

import numpy as np
import pytest

from scripts.page.charts import Line, curves, layers, smoothed, thinned


def test_charts_of_odd_series_are_whole():
    gap = curves("A <b>", [Line("x & y", [1, 2, 3], [1.0, np.nan, 2.0])])
    assert gap.svg.count('class="dot') == 2
    assert "A &lt;b&gt;" in gap.svg
    for chart in (gap, curves("one", [Line("x", [5], [0.5])], percent=True),
                  curves("none", [Line("x", [1, 2], [np.nan, np.nan])]),
                  layers("flat", [1, 2, 3], {"a": [0.0, 0.0, 0.0], "b": [1.0, 2.0, 500.0]})):
        assert "nan" not in chart.svg.replace(chart.title, "")
        Tree.fromstring(chart.svg)
    many = np.arange(10_000.0)
    assert len(thinned(many)) == 240
    assert thinned(many).mean() == pytest.approx(many.mean(), rel=1e-3)
    assert np.isnan(smoothed(np.array([1.0, np.nan, 1.0]))).tolist() == [False, True, False]
