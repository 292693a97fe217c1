"""train/evaluation/retrieval.py: the full matrix and its recalls, and the published quick check."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from config import load
from config.errors import ConfigError
from config.sections import Eval
from data.batches.pairs import PairIndex
from model.matcher import Matcher
from tests.items import items_config
from tests.ranks import on_ranks
from tests.samples import lively
from tests.support import DIM, VOCAB, write_config, write_stores
from tests.train.conftest import MakeRun, Pretended
from train.assembly.kinds import KINDS
from train.assembly.precision import Precision
from train.assembly.recipe import Parts, build_parts
from train.assembly.splits import Split
from train.distributed.comm import Comm, Solo
from train.evaluation import retrieval as measuring
from train.evaluation.retrieval import compute_recalls, measure, quick_check, report_tenths
from train.metrics.clock import Clock
from train.metrics.journal import Journal
from train.scoring.recall import Ties, fold_recalls, recalls
from train.scoring.scorer import read_images, read_texts
from train.scoring.scores import read_origin
from train.scoring.two_stage import TwoStage


def opened(make_run: MakeRun, comm: Comm | None = None, **options: Any) -> tuple[Parts, Split]:
    parts = build_parts(make_run(eval=options), comm or Solo())
    lively(parts.matcher)
    split = parts.split("test")
    assert split is not None
    return parts, split


def test_a_measurement_keeps_its_scores_and_says_what_it_counted(make_run: MakeRun, tmp_path: Path) -> None:
    parts, split = opened(make_run, ties="mean")
    found = measure(parts, split, "test", tmp_path, Journal(tmp_path, tensorboard=False))
    assert found is not None
    place = tmp_path / "scores" / "test"
    assert sorted(path.name for path in place.iterdir()) == ["ids.json", "matrix.npy"]
    matrix = np.load(place / "matrix.npy", allow_pickle=False)
    assert matrix.shape == (24, 48)
    assert matrix.dtype == np.float32
    told = json.loads((place / "ids.json").read_text())
    assert len(told.pop("crc32c")) == 2
    assert told == {
        "images": split.index.images, "texts": split.index.texts, "owner": split.index.owner.tolist(),
        "origin": read_origin(place)}
    assert found == {"recalls": recalls(matrix, split.index.owner, "mean", "correct", 1), "images": 24, "texts": 48,
                     "folds": 1, "ties": "mean", "ir_count": "correct", "median_rank": "exact", "left_out": []}


def test_scores_of_the_same_weights_are_counted_again_not_computed_again(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, split = opened(make_run)
    first = measure(parts, split, "test", tmp_path, Journal(None))
    with monkeypatch.context() as patch:
        patch.setattr(type(parts.scorer), "matrix", lambda *_: pytest.fail("scored again"))
        assert measure(parts, split, "test", tmp_path, Journal(None)) == first
    with torch.no_grad():
        parts.matcher.rank.weight.neg_()  # type: ignore[union-attr, operator]
    other = measure(parts, split, "test", tmp_path, Journal(None))
    assert other is not None
    assert first is not None
    assert other["recalls"] != first["recalls"]


def test_kept_scores_that_were_damaged_are_computed_again(make_run: MakeRun, tmp_path: Path) -> None:
    parts, split = opened(make_run)
    first = measure(parts, split, "test", tmp_path, Journal(None))
    place = tmp_path / "scores" / "test"
    whole = (place / "matrix.npy").read_bytes()
    turned = whole[:-1] + bytes([whole[-1] ^ 1])
    for name, spoilt in (("matrix.npy", turned), ("matrix.npy", whole[:90]), ("ids.json", b"{")):
        (place / name).write_bytes(spoilt)
        said = io.StringIO()
        assert measure(parts, split, "test", tmp_path, Journal(None, talk=said)) == first
        assert "scoring again: " in said.getvalue()
        assert (place / "matrix.npy").read_bytes() == whole



@pytest.mark.parametrize("other", ["weights", "precision"])
def test_what_an_evaluation_left_unfinished_serves_the_same_one_only(
    other: str, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def die(done: int, of: int) -> None:
        if done == 3:
            raise Killed

    parts, split = opened(make_run, tokens_per_block=300)
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "report_tenths", lambda *_: die)
        with pytest.raises(Killed):
            measure(parts, split, "test", tmp_path / "cut", Journal(None))
    assert len(list((tmp_path / "cut").rglob("texts-*.npy"))) == 3
    if other == "weights":
        with torch.no_grad():
            parts.matcher.rank.weight.neg_()  # type: ignore[union-attr, operator]
    else:
        run = make_run(eval={"tokens_per_block": 300}, optim={"precision": "bf16"})
        parts = replace(parts, run=run, precision=Precision("bf16", parts.device))
    for place in ("cut", "clean"):
        measure(parts, split, "test", tmp_path / place, Journal(None))
    again, clean = ((tmp_path / place / "scores/test/matrix.npy").read_bytes() for place in ("cut", "clean"))
    assert again == clean
    assert not (tmp_path / "cut/scores/test/parts").exists()


def test_scores_of_a_store_that_was_packed_again_are_not_used(make_run: MakeRun, tmp_path: Path) -> None:
    """The same names and lengths, but other features."""
    found = []
    for scale in (1.0, 2.0):
        parts = build_parts(make_run(on=write_stores(tmp_path / f"scale-{scale}", scale=scale)), Solo())
        lively(parts.matcher)
        split = parts.split("test")
        assert split is not None
        measure(parts, split, "test", tmp_path / "out", Journal(None))
        found.append(np.load(tmp_path / "out/scores/test/matrix.npy", allow_pickle=False))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_scores_may_be_kept_in_half_precision(make_run: MakeRun, tmp_path: Path) -> None:
    parts, split = opened(make_run, score_dtype="float16")
    found = measure(parts, split, "test", tmp_path, Journal(None))
    matrix = np.load(tmp_path / "scores" / "test" / "matrix.npy", allow_pickle=False)
    assert matrix.dtype == np.float16
    assert found is not None
    assert found["recalls"] == recalls(matrix, split.index.owner, "pessimistic", "correct", 1)


def test_two_stages_are_kept_beside_all_pairs_and_counted_again(
    stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matcher of tokens; the matrix of all pairs stays what it is."""
    matcher = {"name": "bfan", "vocab_size": VOCAB, "img_dim": DIM, "embed_size": 8, "word_dim": 6}

    def parts_of(**options: Any) -> Parts:
        config = items_config(stores, eval=options) | {"matcher": matcher}
        parts = build_parts(load(write_config(tmp_path / "given.json", config), {}, KINDS), Solo())
        lively(parts.matcher)
        return parts

    every, some = parts_of(), parts_of(two_stage=3, score_dtype="float16", ties="optimistic")
    split, out = some.split("test"), tmp_path / "out"
    assert split is not None
    exact = measure(every, split, "test", out, Journal(None))
    found = measure(some, split, "test", out, Journal(out, tensorboard=False))
    assert exact is not None
    assert found is not None
    assert "two_stage" not in exact
    assert (out / "log.txt").read_text().count(
        "test: two stages: of 24 images x 48 texts = 1152 pairs scoring those among the 3 nearest of each") == 1
    place = out / "scores" / "test-two-stage"
    assert sorted(path.name for path in place.iterdir()) == ["candidates.npy", "ids.json"]
    matrix = np.load(place / "candidates.npy", allow_pickle=False)
    assert matrix.dtype == np.float16
    known = found["two_stage"]
    assert known["k"] == 3
    assert known["scored"] == (matrix > -np.inf).mean()
    owner = split.index.owner
    assert known["ceiling"]["img"] == (matrix[owner, np.arange(48)] > -np.inf).mean()
    assert found["recalls"] == recalls(matrix, owner, "optimistic")
    assert all(found["recalls"][f"{way}_r{k}"] <= share for way, share in known["ceiling"].items() for k in (1, 5, 10))

    monkeypatch.setattr(TwoStage, "matrix", lambda *_: pytest.fail("scored again"))
    assert measure(some, split, "test", out, Journal(None)) == found
    monkeypatch.setattr(type(every.scorer), "matrix", lambda *_: pytest.fail("scored again"))
    assert measure(every, split, "test", out, Journal(None)) == exact
    with pytest.raises(pytest.fail.Exception):
        measure(parts_of(two_stage=4), split, "test", out, Journal(None))


def test_pairs_that_only_meet_inside_the_model_are_refused_before_anything_is_read(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="two_stage=5: matcher uniter sees images only together with texts"):
        build_parts(make_run(eval={"two_stage": 5}), Solo())


@pytest.mark.parametrize("name", ["vsrn", "bfan"])
def test_ranks_share_the_images_of_the_quick_check(
    name: str, stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Matcher, "encode_chunk", 5)
    matcher = {"name": name, "vocab_size": VOCAB, "img_dim": DIM, "embed_size": 8, "word_dim": 6}
    config = items_config(stores, eval={"inf_minibatch_size": 13}) | {"matcher": matcher}
    run, decoded, read = load(write_config(tmp_path / "given.json", config), {}, KINDS), [], PairIndex.read_images

    def noted(self: PairIndex, images: Any, *args: Any) -> None:
        decoded.append(len(images))
        read(self, images, *args)

    monkeypatch.setattr(PairIndex, "read_images", noted)
    parts = build_parts(run, Solo())
    lively(parts.matcher)
    split = parts.split("test")
    assert split is not None
    alone = quick_check(parts, split)
    assert sum(decoded) == 24
    for found in on_ranks(2, lambda comm: quick_check(replace(parts, comm=comm), split)):
        assert found == pytest.approx(alone)
    assert sum(decoded) == 24 + 24 + 1, "of five chunks; the rank without the sixth shows its shape by one image"


def test_other_ranks_find_nothing_and_write_no_result(make_run: MakeRun, tmp_path: Path) -> None:
    parts, split = opened(make_run, Pretended(1, 2))
    assert measure(parts, split, "test", tmp_path, Journal(tmp_path, rank=1)) is None
    assert not (tmp_path / "scores" / "test" / "matrix.npy").exists()


def test_a_matrix_is_judged_by_the_runs_options() -> None:
    rng = np.random.default_rng(0)
    matrix, owner = rng.random((20, 40)), np.arange(40) % 20
    options = Eval(ties="optimistic", ir_count="legacy", folds=2, median_rank="floor")
    found = compute_recalls(options, matrix, owner)
    assert found.pop("recalls") == recalls(matrix, owner, "optimistic", "legacy", 2, "floor")
    assert found.pop("each_fold") == fold_recalls(matrix, owner, "optimistic", "legacy", 2, "floor")
    assert found.pop("whole") == recalls(matrix, owner, "optimistic", "legacy", 1, "floor")
    assert found == {"images": 20, "texts": 40, "folds": 2, "ties": "optimistic", "ir_count": "legacy",
                     "median_rank": "floor"}


def test_what_a_run_may_choose_is_what_recalls_know() -> None:
    fields = Eval.model_fields
    assert get_args(fields["ties"].annotation) == get_args(Ties)
    assert (
        set(get_args(fields["select_by"].annotation))
        <= compute_recalls(Eval(), np.eye(3), np.arange(3))["recalls"].keys()
    )


def plain_quick(parts: Parts, split: Split, size: int) -> dict[str, float]:
    """Each caption's image against it and the next ones, wrapping round, one pair after the other."""
    index, ranks = split.index, []
    parts.matcher.eval()
    with torch.no_grad():
        for text, owner in enumerate(index.owner):
            side, pool = parts.matcher.encode_text(read_texts(index, [text])), (owner + np.arange(size)) % 24
            images = [parts.matcher.encode_image(read_images(index, [image])) for image in pool]
            scores = [parts.matcher.score(image, side).item() for image in images]
            ranks.append(sum(score >= scores[0] for score in scores[1:]))
    hits = {f"img_r{k}": float(np.mean([rank < k for rank in ranks])) for k in (1, 5, 10)}
    return hits | {"img_r_mean": sum(hits.values()) / 3, "rsum": 100 * sum(hits.values())}


@pytest.mark.parametrize("size", [10, 13, 24])
def test_the_quick_check_is_the_published_one(size: int, make_run: MakeRun) -> None:
    parts, split = opened(make_run, inf_minibatch_size=size)
    found = quick_check(parts, split)
    assert found == pytest.approx(plain_quick(parts, split, size))
    assert 0 < found["img_r1"] < found["img_r10"] < 1 or size == 10


def test_the_quick_check_wants_enough_images(make_run: MakeRun) -> None:
    parts, split = opened(make_run, inf_minibatch_size=25)
    with pytest.raises(ConfigError, match="inf_minibatch_size=25"):
        quick_check(parts, split)


def test_ranks_share_the_texts_of_the_quick_check(make_run: MakeRun) -> None:
    """Each pretended rank sees only its own hits; weighted by their texts they are those of one."""
    whole = quick_check(*opened(make_run, inf_minibatch_size=13))
    shares = [quick_check(*opened(make_run, Pretended(rank, 5), inf_minibatch_size=13)) for rank in range(5)]
    texts = [len(range(rank, 48, 5)) for rank in range(5)]
    for name, value in whole.items():
        mean = sum(count * share[name] for count, share in zip(texts, shares, strict=True)) / 48
        assert mean == pytest.approx(value), name
    assert len({share["img_r5"] for share in shares}) > 1


def test_ties_count_against_the_match(make_run: MakeRun) -> None:
    parts, split = opened(make_run, inf_minibatch_size=10)
    with torch.no_grad():
        parts.matcher.rank.weight.zero_()  # type: ignore[union-attr, operator]
    assert quick_check(parts, split)["img_r5"] == 0


def test_tenths_are_said_once_each(tmp_path: Path) -> None:
    journal = Journal(tmp_path, tensorboard=False)
    clock = Clock()
    clock.count("pairs", 7)
    said = report_tenths("val", journal, clock)
    for done in range(1, 26):
        said(done, 25)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 10
    assert "val: 100 % scored  pairs/s " in lines[-1]
    assert lines[-1].endswith("  data 0 %")
