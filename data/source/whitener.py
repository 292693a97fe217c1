"""PCA whitening of raw region features: fitted on the training split, stored with it, applied to every split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError, DataError
from data.files import replace_atomically
from data.records.codec import DamagedRecord, decode_npz

RIDGE = 0.01  # share of the mean variance added to each: directions of mere noise are not blown up to full size


class Whitener:
    """Turns raw features [n, raw_dim] into [n, img_dim] of about unit variance, without correlation."""

    def __init__(self, mean: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
        """mean [raw_dim], weight [raw_dim, img_dim]; use `fit` or `load` instead."""
        self.mean = mean
        self.weight = weight

    @property
    def raw_dim(self) -> int:
        return self.weight.shape[0]

    @property
    def img_dim(self) -> int:
        return self.weight.shape[1]

    @classmethod
    def fit(cls, parts: Iterable[NDArray[np.floating]], img_dim: int) -> Whitener:
        """Mean and leading directions of all rows, from running sums: the rows are never held together.

        Args:
            parts: arrays [n, raw_dim], any number of rows each; their order matters only by rounding.
            img_dim: directions to keep.
        Raises:
            ConfigError: img_dim is larger than raw_dim.
            DataError: fewer than two rows, or a row that is not finite.
        """
        count, origin, total, outer = 0, np.zeros(0), np.zeros(0), np.zeros((0, 0))
        for part in parts:
            rows = np.asarray(part, np.float64)
            if not count:
                _check_width(img_dim, rows.shape[1])
                origin = rows.mean(0) if len(rows) else np.zeros(rows.shape[1])
                total, outer = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
            rows = rows - origin
            count += len(rows)
            total += rows.sum(0)
            outer += rows.T @ rows
        if count < 2:
            raise DataError(f"whitening needs at least two regions to fit on, got {count}")
        if not np.isfinite(outer).all():
            raise DataError("whitening met features that are not finite: rebuild the raw features")
        shift = total / count
        variance, directions = np.linalg.eigh(outer / count - np.outer(shift, shift))
        keep = np.argsort(-variance, kind="stable")[:img_dim]
        scale = 1 / np.sqrt(np.maximum(variance, 0) + RIDGE * max(variance.mean(), 1e-12))
        directions = directions[:, keep]
        largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], 0)
        weight = directions * np.where(largest < 0, -1, 1) * scale[keep]
        return cls((origin + shift).astype(np.float32), weight.astype(np.float32))

    def transform(self, raw: NDArray[np.floating]) -> NDArray[np.float32]:
        """Whitened features [n, img_dim] of raw features [n, raw_dim]."""
        if raw.shape[-1] != self.raw_dim:
            raise DataError(
                f"this whitener was fitted on {self.raw_dim} raw features, got {raw.shape[-1]}: fit it again"
            )
        return np.matmul(raw.astype(np.float32) - self.mean, self.weight, dtype=np.float32)

    def save(self, path: str | Path) -> None:
        """Write mean and weight as an .npz archive, beside and renamed."""
        with replace_atomically(Path(path)) as beside, beside.open("wb") as file:
            np.savez(file, mean=self.mean, weight=self.weight)

    @classmethod
    def load(cls, path: str | Path) -> Whitener:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing, damaged or no whitener.
        """
        try:
            with Path(path).open("rb") as file:
                archive = decode_npz(file)
            mean, weight = archive["mean"], archive["weight"]
        except FileNotFoundError as error:
            raise DataError(f"no whitener at {path}: build the train split's store first") from error
        except (OSError, KeyError, DamagedRecord) as error:
            raise DataError(f"{path} is damaged or no whitener: build the train split's store again") from error
        if mean.ndim != 1 or weight.ndim != 2 or weight.shape[0] != mean.shape[0]:
            raise DataError(f"{path} is no whitener: mean {mean.shape}, weight {weight.shape}")
        return cls(mean.astype(np.float32), weight.astype(np.float32))


def _check_width(img_dim: int, raw_dim: int) -> None:
    if not 1 <= img_dim <= raw_dim:
        raise ConfigError(f"img_dim {img_dim} does not fit: there are {raw_dim} raw features, choose 1 to {raw_dim}")
