"""train/mining/rerank.py: tokens of pairs that are scored together stay within the room for them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from data.pairs import PairIndex
from model.bfan import Bfan, Config
from tests.mined import CPU
from tests.support import DIM, VOCAB
from train.comm import Solo
from train.mining.embed import Embedder
from train.mining.rerank import Reranker, Tokens
from train.scorer import Scorer


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
    assert tokens.bytes(torch.tensor([2])) == (6 + 6) * 4 * 4
