"""train/mining/rerank.py: tokens of pairs that are scored together stay within the room for them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import ConfigError, DataError
from data.batches.pairs import Array, PairIndex
from model.bfan import Bfan, Config
from tests.mined import CPU
from tests.support import DIM, VOCAB
from tests.train.conftest import Pretended
from train.distributed.comm import Solo
from train.mining import rerank
from train.mining.embed import Embedder
from train.mining.lists import Direction, row_writer
from train.mining.rerank import Reranker, Tokens
from train.scoring.scorer import Scorer


@pytest.fixture
def scorer(index: PairIndex, tmp_path: Path) -> Scorer:
    """Of a small BFAN whose tokens lie below `tmp_path`."""
    torch.manual_seed(0)
    section = {"name": "bfan", "vocab_size": VOCAB, "img_dim": DIM, "embed_size": 8, "word_dim": 6}
    one = Scorer(Bfan(Config.model_validate(section)), Solo(), CPU, nullcontext, 1000)
    Embedder(one, index, tmp_path, True, lambda _: None, 9.0).write()
    return one


@pytest.mark.parametrize("room", [1, 3000])
def test_pairs_are_cut_by_the_tokens_of_both_sides(
    room: int, scorer: Scorer, index: PairIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = Tokens.side

    def watched(self: Tokens, items: torch.Tensor, device: torch.device) -> object:
        side = whole(self, items, device)
        assert len(items) == len(items.unique())
        read.append(len(side) if room == 1 else side.rows.values.nbytes)
        return side

    monkeypatch.setattr(Tokens, "side", watched)
    image = torch.arange(len(index.images)).repeat_interleave(len(index.texts))
    text = torch.arange(len(index.texts)).repeat(len(index.images))
    everything = Reranker(scorer, index, tmp_path, 1 << 30)._scores(image, text)
    assert len(read) == 2, "all fit at once"
    read.clear()
    torch.testing.assert_close(Reranker(scorer, index, tmp_path, room)._scores(image, text), everything)
    assert max(left + right for left, right in zip(read[::2], read[1::2], strict=True)) <= max(room, 2)


def test_the_bytes_of_tokens_count_what_fills_them_up() -> None:
    tokens = Tokens(torch.zeros(9, 4), torch.from_numpy(np.array([0, 2, 3, 9])))
    assert tokens.bytes(torch.tensor([0, 1])) == (2 + 1 + 2 * 2) * 4 * 4
    assert tokens.bytes(torch.tensor([2])) == 6 * 4 * 4, "which is not filled up"


ROOM = 1 << 30


@pytest.fixture
def table(scorer: Scorer, index: PairIndex) -> torch.Tensor:
    """All scores, `[images, texts]`."""
    with torch.inference_mode():
        return scorer.matcher.score(scorer.encode_images(index, np.arange(len(index.images))),
                                    scorer.encode_texts(index, np.arange(len(index.texts)))).double()


def direction(index: PairIndex, by_image: bool, most: int, ceiling: torch.Tensor | None = None) -> Direction:
    sides = [torch.zeros(len(names), 1) for names in (index.images, index.texts)]
    queries, pool = sides if by_image else sides[::-1]
    what, flag = ("image", "--texts_per_image") if by_image else ("text", "--images_per_text")
    return Direction(queries, pool, most, ceiling, what, flag)


def shortlists(rows: int, pool: int, width: int) -> Array:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(pool)[:width] for _ in range(rows)]).astype(np.int32)


def ordered(scorer: Scorer, index: PairIndex, folder: Path, short: Array, asked: Direction,
            ranks: int) -> tuple[Array, Array]:
    """Candidates and scores, written by so many ranks on paper."""
    found = np.full((len(short), asked.most), -7, np.int32)
    values = np.zeros((len(short), asked.most), np.float32)
    for rank in range(ranks):
        own = replace(scorer, comm=Pretended(rank, ranks))
        Reranker(own, index, folder, ROOM).order(asked.what == "image", short, asked, row_writer(found, values))
    return found, values


@pytest.mark.parametrize("by_image", [True, False])
def test_the_order_is_that_of_the_scores(by_image: bool, scorer: Scorer, index: PairIndex, table: torch.Tensor,
                                         tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank, "PAIRS", 70)
    scores = (table if by_image else table.T).numpy()
    short = shortlists(*scores.shape, 15)
    found, values = ordered(scorer, index, tmp_path, short, direction(index, by_image, 6), 1)
    best = np.sort(np.take_along_axis(scores, short.astype(int), 1), axis=1)[:, ::-1][:, :6]
    np.testing.assert_allclose(values, best, atol=2e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, found.astype(int), 1), best, atol=2e-5)
    assert all(set(row) <= set(some) for row, some in zip(found.tolist(), short.tolist(), strict=True))
    shared = ordered(scorer, index, tmp_path, short, direction(index, by_image, 6), 4)
    assert (found.tobytes(), values.tobytes()) == tuple(one.tobytes() for one in shared), "ranks change no bit"


def test_positives(scorer: Scorer, index: PairIndex, table: torch.Tensor, tmp_path: Path) -> None:
    best, own = Reranker(scorer, index, tmp_path, ROOM).positives()
    expected = table[torch.from_numpy(index.owner), torch.arange(len(index.texts))]
    torch.testing.assert_close(own, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(best[4], expected[torch.from_numpy(index.captions(4))].max(), rtol=0, atol=2e-5)


def test_a_ceiling(scorer: Scorer, index: PairIndex, table: torch.Tensor, tmp_path: Path) -> None:
    short = shortlists(*table.shape, len(index.texts))
    ceiling = table.sort(dim=1).values[:, 10] + 1e-4
    found = ordered(scorer, index, tmp_path, short, direction(index, True, 5, ceiling), 1)[0]
    assert (np.take_along_axis(table.numpy(), found.astype(int), 1) <= ceiling[:, None].numpy() + 1e-4).all()
    with pytest.raises(DataError, match=r"image 0 \(counted from 0\) has only 0 candidates that score far enough belo"):
        ordered(scorer, index, tmp_path, short, direction(index, True, 5, ceiling - 99), 1)


def test_a_short_list_that_is_too_short(scorer: Scorer, index: PairIndex, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shortlist is too short: 4 are no choice for 5"):
        ordered(scorer, index, tmp_path, shortlists(24, 48, 4), direction(index, True, 5), 1)
