"""Whitening: variance and correlation of what comes out, fitting in parts, files, and wrong input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from data.source.whitener import Whitener


@pytest.fixture
def raw() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 20)) * np.array([8, 5, 3, 2, 1, 0.5])[:, None]
    return (100 + rng.normal(size=(500, 6)) @ mixing + 0.01 * rng.normal(size=(500, 20))).astype(np.float32)


def test_white(raw: np.ndarray) -> None:
    white = Whitener.fit([raw], 5).transform(raw)
    covariance = np.cov(white.T)
    assert white.shape == (500, 5)
    assert white.dtype == np.float32
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-2)
    assert np.all((np.diag(covariance) > 0.8) & (np.diag(covariance) < 1.01))


def test_noise_is_not_blown_up(raw: np.ndarray) -> None:
    assert Whitener.fit([raw], 20).transform(raw)[:, 10:].std(0).max() < 0.1


def test_parts_give_what_the_whole_gives(raw: np.ndarray) -> None:
    whole = Whitener.fit([raw], 4)
    parts = Whitener.fit((raw[at : at + 7] for at in range(0, 500, 7)), 4)
    np.testing.assert_allclose(parts.transform(raw), whole.transform(raw), atol=1e-3)


def test_fitting_twice_gives_the_same_bytes(raw: np.ndarray) -> None:
    assert Whitener.fit([raw], 4).weight.tobytes() == Whitener.fit([raw], 4).weight.tobytes()


def test_file_round_trip(raw: np.ndarray, tmp_path: Path) -> None:
    fitted = Whitener.fit([raw], 3)
    fitted.save(tmp_path / "whitener.npz")
    loaded = Whitener.load(tmp_path / "whitener.npz")
    assert (loaded.raw_dim, loaded.img_dim) == (20, 3)
    assert loaded.transform(raw).tobytes() == fitted.transform(raw).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["whitener.npz"]


@pytest.mark.parametrize("img_dim", [21, 0, -1])
def test_width_that_does_not_fit_names_both_numbers(raw: np.ndarray, img_dim: int) -> None:
    with pytest.raises(ConfigError, match=f"img_dim {img_dim} .*20"):
        Whitener.fit([raw], img_dim)


def test_too_few_rows_and_bad_numbers_are_refused(raw: np.ndarray) -> None:
    with pytest.raises(DataError, match="at least two regions"):
        Whitener.fit([], 3)
    with pytest.raises(DataError, match="not finite"):
        Whitener.fit([raw, np.full((1, 20), np.nan)], 3)


def test_other_raw_features_are_refused(raw: np.ndarray) -> None:
    with pytest.raises(DataError, match="20 raw features, got 19"):
        Whitener.fit([raw], 3).transform(raw[:, 1:])


def test_missing_and_damaged_files_are_named(raw: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "whitener.npz"
    with pytest.raises(DataError, match="no whitener at"):
        Whitener.load(path)
    Whitener.fit([raw], 3).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"whitener\.npz is damaged"):
        Whitener.load(path)
    np.savez(path, mean=np.zeros(3), weight=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"whitener\.npz is damaged"):
        Whitener.load(path)
