"""train/scoring on pictures: decoded side by side, and scored the same however they are cut."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from threading import Barrier, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches.pairs import PairIndex, Source
from data.stores.picture_store import PictureView, PictureWriter, encode_picture
from data.stores.text_store import TextStore, TextWriter
from model.matcher import Matcher
from tests.ranks import on_ranks
from tests.samples import lively, small
from tests.train.scoring.test_scorer import matrix, one_by_one, scorer
from train.scoring.scorer import read_images
from train.scoring.two_stage import TwoStage


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PairIndex:
    """Seven pictures of noise with a caption each."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    special = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 60]}
    with PictureWriter(folder / "img") as images, TextWriter(folder / "txt.db", special) as texts:
        for number in range(7):
            file = BytesIO()
            Image.fromarray(rng.integers(0, 255, (12, 9 + number, 3), np.uint8)).save(file, "PNG")
            images.put(f"{number}", encode_picture(file.getvalue()))
            words = rng.integers(5, 60, 1 + number % 3).tolist()
            texts.add(f"t{number}", {"input_ids": words, "img_fname": f"{number}"})
    return PairIndex([Source(TextStore(folder / "txt.db"), PictureView(side=16).open(folder / "img"))])


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_pictures_are_decoded_side_by_side(threads: int, pictures: PairIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, by = [4, 1, 6, 0, 2], set()
    alone = read_images(pictures, chosen)
    assert alone.features.values.shape == (5, 3, 16, 16)
    assert alone.features.values.dtype == torch.uint8
    assert alone.lengths.tolist() == [1] * 5
    together, read = Barrier(min(threads, 5)), PairIndex.read_images

    def noted(self: PairIndex, *args: Any) -> None:
        by.add(get_ident())
        together.wait(30)
        read(self, *args)

    monkeypatch.setattr(PairIndex, "read_images", noted)
    found = read_images(pictures, chosen, threads)
    assert len(by) == min(threads, 5)
    assert torch.equal(found.features.values, alone.features.values)
    assert not found.boxes.any()


@pytest.fixture(params=["slimmed", "max_mean", "pooled"])
def matcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Matcher:
    matcher = lively(small("laps", alignment=request.param))
    monkeypatch.setattr(type(matcher), "encode_chunk", 2)
    return matcher


def test_ranks_change_no_bit(matcher: Matcher, pictures: PairIndex, tmp_path: Path) -> None:
    alone = matrix(scorer(matcher, 9), pictures, tmp_path / "alone")
    shared, _ = on_ranks(2, lambda comm: scorer(matcher, 9, comm).matrix(pictures, tmp_path / "two", lambda *_: None))
    assert shared is not None
    assert shared.tobytes() == alone.tobytes()


def test_any_block_size_gives_the_same_scores(matcher: Matcher, pictures: PairIndex, tmp_path: Path) -> None:
    alone = one_by_one(matcher, pictures)
    assert alone.std() > 0.01
    for tokens in (1, 9, 10**6):
        np.testing.assert_allclose(matrix(scorer(matcher, tokens), pictures, tmp_path), alone, atol=1e-5)
        found = TwoStage(scorer(matcher, tokens), 2).matrix(pictures, tmp_path, lambda *_: None)
        assert found is not None
        near = found[0] > -np.inf
        assert 0.2 < near.mean() < 0.6
        np.testing.assert_allclose(found[0][near], alone[near], atol=1e-5)
