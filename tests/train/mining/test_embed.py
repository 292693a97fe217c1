"""train/mining/embed.py: chunks whose bits nothing around them changes, marked when they are on the disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from config.errors import ConfigError, DataError
from data.batches.batch import Ragged
from data.batches.pairs import PairIndex
from model.bfan import Bfan
from model.bfan import Config as BfanConfig
from model.matcher import Matcher, Side, pooled
from model.vsrn import Config as VsrnConfig
from model.vsrn import Vsrn
from tests.items import VSRN
from tests.mined import CPU
from tests.support import DIM, VOCAB
from train.distributed.comm import Comm, Solo
from train.metrics.clock import Clock
from train.mining import embed
from train.mining.embed import (
    IMAGE_TOKENS,
    IMAGES,
    TEXT_TOKENS,
    TEXTS,
    DoneMarks,
    Embedder,
    one_thread_each,
    run_side_by_side,
    tokens_of,
)
from train.scoring.scorer import Scorer


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matcher, "encode_chunk", 5)


@pytest.fixture
def vsrn() -> Vsrn:
    torch.manual_seed(0)
    return Vsrn(VsrnConfig.model_validate(VSRN))


@pytest.fixture
def bfan() -> Bfan:
    torch.manual_seed(0)
    section = {"name": "bfan", "vocab_size": VOCAB, "img_dim": DIM, "embed_size": 8, "word_dim": 6}
    return Bfan(BfanConfig.model_validate(section))


def embedder(matcher: Matcher, index: PairIndex, folder: Path, comm: Comm | None = None) -> Embedder:
    folder.mkdir(exist_ok=True)
    scorer = Scorer(matcher, comm or Solo(), CPU, nullcontext, 1000)
    return Embedder(scorer, index, folder, isinstance(matcher, Bfan), lambda _: None, 0.0)


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*embs.npy"))]


def test_embeddings_are_those_of_the_matcher(vsrn: Vsrn, index: PairIndex, tmp_path: Path) -> None:
    one = embedder(vsrn, index, tmp_path)
    one.write()
    with torch.inference_mode():
        images = one.scorer.encode_images(index, np.arange(len(index.images))).pooled
        texts = one.scorer.encode_texts(index, np.arange(len(index.texts))).pooled
    assert images is not None
    assert texts is not None
    np.testing.assert_allclose(np.load(tmp_path / IMAGES), images, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / TEXTS), texts, atol=1e-6)
    assert not vsrn.training


class RankThread(Solo):
    """A rank that is a thread."""

    def __init__(self, rank: int, meeting: Barrier) -> None:
        self.rank, self.size, self._meeting = rank, meeting.parties, meeting

    def barrier(self, name: str) -> None:
        self._meeting.wait(60)


def test_ranks_change_no_bit(vsrn: Vsrn, index: PairIndex, tmp_path: Path) -> None:
    embedder(vsrn, index, tmp_path / "one").write()
    meeting = Barrier(3)
    ranks = [embedder(vsrn, index, tmp_path / "three", RankThread(rank, meeting)) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(Embedder.write, ranks))
    assert files(tmp_path / "one") == files(tmp_path / "three")
    assert len(list((tmp_path / "three").glob("*.done-*-of-3.npy"))) == 6


def test_threads_change_no_bit(vsrn: Vsrn, index: PairIndex, tmp_path: Path) -> None:
    embedder(vsrn, index, tmp_path / "one").write()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        embedder(vsrn, index, tmp_path / "three").write()
    finally:
        torch.set_num_threads(before)
    assert files(tmp_path / "one") == files(tmp_path / "three")


def test_what_is_done_is_not_done_again(vsrn: Vsrn, index: PairIndex, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    one, chunks = embedder(vsrn, index, tmp_path), []
    real = Scorer.encode_images

    def stopped(self: Scorer, index: PairIndex, chunk: np.ndarray) -> Side:
        if len(chunks) == 3:
            raise KeyboardInterrupt
        chunks.append(int(chunk[0]))
        return real(self, index, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "encode_images", stopped)
        with pytest.raises(KeyboardInterrupt):
            one.write()

    def noted(self: Scorer, index: PairIndex, chunk: np.ndarray) -> Side:
        assert int(chunk[0]) not in chunks[:2], "two were marked before the third was asked for"
        return real(self, index, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "encode_images", noted)
        one.write()
    embedder(vsrn, index, tmp_path / "anew").write()
    assert files(tmp_path) == files(tmp_path / "anew")


def test_marks_of_all_ranks_count(tmp_path: Path) -> None:
    (tmp_path / "x.npy").touch()
    for rank, chunks in enumerate(([0, 2], [1])):
        marks = DoneMarks(tmp_path / "x.npy", None, rank, 2)
        for chunk in chunks:
            assert not marks.add(chunk, 1000.0)
        marks.save()
    assert DoneMarks(tmp_path / "x.npy", None, 0, 5).read() == {0, 1, 2}
    own = DoneMarks(tmp_path / "x.npy", None, 1, 2)
    own.read()
    assert own.add(7, 0.0)
    assert DoneMarks(tmp_path / "x.npy", None, 0, 1).read() == {0, 1, 2, 7}


@pytest.mark.parametrize(("side", "told"), [
    ("image_row", r"the embedding of image a_000007\.npz is not finite; use --precision off"),
    ("text_row", r"the embedding of caption \S+ is not finite"),
])
def test_a_number_that_is_not_finite_names_its_item(side: str, told: str, vsrn: Vsrn, index: PairIndex, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    name = "encode_images" if side == "image_row" else "encode_texts"
    real = getattr(Scorer, name)

    def spoilt(self: Scorer, index: PairIndex, chunk: np.ndarray) -> Side:
        values = real(self, index, chunk).pooled.clone()
        values[torch.from_numpy(chunk == 7), 3] = torch.nan
        return Side(pooled=values)

    monkeypatch.setattr(Scorer, name, spoilt)
    with pytest.raises(DataError, match=told):
        embedder(vsrn, index, tmp_path).write()


def test_tokens_are_kept_where_they_are_wanted(bfan: Bfan, index: PairIndex, tmp_path: Path) -> None:
    one = embedder(bfan, index, tmp_path)
    one.write()
    with torch.inference_mode():
        sides = (one.scorer.encode_images(index, np.arange(len(index.images))),
                 one.scorer.encode_texts(index, np.arange(len(index.texts))))
    for side, tokens, pool in zip(sides, (IMAGE_TOKENS, TEXT_TOKENS), (IMAGES, TEXTS), strict=True):
        np.testing.assert_allclose(np.load(tmp_path / tokens), side.rows.values, atol=1e-6)
        means = torch.stack([part.mean(0) for part in side.rows.values.split(side.rows.lengths.tolist())])
        expected = torch.nn.functional.normalize(means)
        np.testing.assert_allclose(np.load(tmp_path / pool), expected, atol=1e-6)


def test_tokens_of_another_number_are_refused() -> None:
    side = Side(Ragged.of(torch.zeros(5, 2), torch.tensor([2, 3])))
    assert tokens_of(side, np.array([2, 3])).shape == (5, 2)
    with pytest.raises(ConfigError, match="not one to a region or word"):
        tokens_of(side, np.array([3, 2]))


def test_each_side_is_pooled_in_its_own_manner(bfan: Bfan, index: PairIndex, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bfan, "pooled_images", lambda _, side: torch.full((len(side), 8), 2.0))
    monkeypatch.setattr(Bfan, "pooled_texts", lambda _, side: torch.full((len(side), 8), 3.0))
    embedder(bfan, index, tmp_path).write()
    assert (np.load(tmp_path / IMAGES) == 2).all()
    assert (np.load(tmp_path / TEXTS) == 3).all()


def test_pooled_embeddings_are_taken_as_they_are() -> None:
    values = torch.randn(3, 4)
    assert pooled(Side(pooled=values)) is values


def test_work_side_by_side_is_alone_on_its_thread_and_in_order() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = list(run_side_by_side(lambda item: (item, torch.get_num_threads()), range(10), CPU, Clock()))
        with one_thread_each() as threads:
            assert (threads, torch.get_num_threads()) == (3, 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert found == [(item, 1) for item in range(10)]


@pytest.mark.parametrize("gone", [IMAGES, IMAGE_TOKENS, TEXTS])
def test_marks_of_a_file_that_is_gone_say_nothing(gone: str, bfan: Bfan, index: PairIndex, tmp_path: Path) -> None:
    embedder(bfan, index, tmp_path).write()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / gone).unlink()
    embedder(bfan, index, tmp_path).write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_marks_go_before_their_file_is_made_anew(vsrn: Vsrn, index: PairIndex, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in between would leave marks of zeros."""
    embedder(vsrn, index, tmp_path).write()
    (tmp_path / IMAGES).unlink()

    def killed(*_: object) -> None:
        assert not list(tmp_path.glob("img_embs.done-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(embed, "reserve", killed)
    with pytest.raises(KeyboardInterrupt):
        embedder(vsrn, index, tmp_path).write()


@pytest.mark.parametrize("lengths", [[2, 1, 4], [3, 3]])
def test_means_of_tokens_are_summed_in_a_fixed_order(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("index_add_", "index_add", "scatter_add_", "scatter_add"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("adds in any order on a GPU"))
    values = torch.randn(sum(lengths), 5)
    expected = torch.stack([torch.nn.functional.normalize(part.mean(0), dim=0) for part in values.split(lengths)])
    torch.testing.assert_close(pooled(Side(Ragged.of(values, torch.tensor(lengths)))), expected)
