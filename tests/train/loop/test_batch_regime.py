"""train/loop/batch_regime.py: what a batch of items costs, and that two ranks find what one finds with all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from config import load
from config.errors import ConfigError, DataError
from config.schema import Run
from data.batches.batch import Batch
from data.batches.items import Items
from data.batches.loader import Loader
from data.batches.offline_negatives import Offline
from data.batches.pairs import PairIndex
from data.batches.prefetch_buffer import Capacity
from model.matcher import Matcher, MatchOut
from model.objective import Term, build_objective, find_objective
from tests.items import items_config, random_candidates, write_candidates
from tests.ranks import on_ranks
from tests.samples import lively, small
from tests.support import events
from tests.train.conftest import Pretended
from train.assembly.kinds import KINDS
from train.assembly.recipe import build_recipe
from train.distributed.collectives import synchronise_norms
from train.distributed.comm import Comm, Solo
from train.loop.batch_regime import BatchRegime, batch_recall, match_batch, total_loss
from train.loop.trainer import Trainer
from train.metrics.clock import Clock
from train.metrics.journal import Journal
from train.metrics.throughput import CLOCKED

ITEMS = 8
OFFLINE = ("offline_text", "offline_image", "offline_both", "offline_kin")
SYSTEMS: list[tuple[str, dict[str, Any]]] = [
    ("vsrn", {"input_dropout_p": 0.5}), ("vsrn", {"variant": "F"}), ("bfan", {}), ("bfan", {"focal_type": "prob"})]
MakeItemRun = Callable[..., Run]


@pytest.fixture
def make_run(stores: tuple[Path, Path], index: PairIndex, tmp_path: Path) -> MakeItemRun:
    """`make_run(optim={...}, ...)`: a tiny checked run of VSRN over items; `offline=True` with candidates."""

    def made(offline: bool = False, **sections: dict[str, Any]) -> Run:
        if offline:
            folder = tmp_path / "offline"
            if not folder.exists():
                write_candidates(folder, random_candidates(index), index.order_hash)
            sections["negatives"] = {"offline": str(folder), "offline_range": 10} | sections.get("negatives", {})
            sections.setdefault("objective", {"name": "quintuplet"})
        path = tmp_path / "run.json"
        path.write_text(json.dumps(items_config(stores, **sections) | {"seed": 42}))
        return load(path, {}, KINDS)

    return made


def batches(index: PairIndex, size: int, offline: bool = True) -> list[Batch]:
    """Each rank's part of the same eight items; the next eight are 48 slots, an epoch, later."""
    source = Offline(index, random_candidates(index), 10, 5, "shared", 0) if offline else None
    items, found = Items(index, -1, 0, source), []
    for rank in range(size):
        plan = items.plans(0, ITEMS, rank, size)
        found.append(next(iter(Loader(index, plan, Capacity.of_items(index, 3 * ITEMS), 0, 1, torch.device("cpu"))))[1])
    return found


def matcher_of(name: str, settings: dict[str, Any]) -> Matcher:
    """In double precision and training mode, with weights that make every part count."""
    return lively(small(name, **settings)).double().train()


class Found(NamedTuple):
    """What a rank got of one update."""

    out: MatchOut
    loss: Tensor
    grads: dict[str, Tensor]
    buffers: dict[str, Tensor]


def update(matcher: Matcher, batch: Batch, comm: Comm, separate: bool = True) -> Found:
    """One forward and backward, by the quintuplet loss where there are offline negatives, else the triplet loss."""
    synchronise_norms(matcher, comm)
    out = match_batch(matcher, batch, comm, nullcontext, separate)
    settings: Any = find_objective("quintuplet" if batch.sets == 3 else "triplet").settings
    terms = build_objective(settings())(out, batch, 0.0)
    total_loss(terms, out.aux, comm.size).backward()
    grads = {name: p.grad for name, p in matcher.named_parameters() if p.grad is not None}
    return Found(out, total_loss(terms, out.aux, 1).detach(), grads, dict(matcher.named_buffers()))


def both(index: PairIndex, name: str, settings: dict[str, Any], offline: bool = True, separate: bool = True
         ) -> tuple[Found, list[Found]]:
    """The same eight items on one rank, and four and four on two."""
    matcher, parts = matcher_of(name, settings), batches(index, 2, offline)
    copies = [deepcopy(matcher) for _ in parts]
    alone = update(matcher, batches(index, 1, offline)[0], Solo(), separate)
    return alone, on_ranks(2, lambda comm: update(copies[comm.rank], parts[comm.rank], comm, separate))


def close(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=lambda said: f"{what}: {said}")


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize(("name", "settings"), SYSTEMS)
@pytest.mark.parametrize("offline", [True, False])
def test_two_ranks_find_what_one_finds(
    offline: bool, name: str, settings: dict[str, Any], separate: bool, index: PairIndex
) -> None:
    alone, ranks = both(index, name, settings, offline, separate)
    assert alone.out.positive is not None
    assert alone.out.scores["match"].shape == alone.out.positive.shape == (ITEMS, ITEMS)
    for rank in ranks:
        assert rank.out.positive is not None
        close(rank.out.scores["match"], alone.out.scores["match"], "scores")
        assert torch.equal(rank.out.positive, alone.out.positive)
        assert rank.out.keys is not None
        assert alone.out.keys is not None
        assert torch.equal(rank.out.keys, alone.out.keys)
        assert (rank.out.offline is None) is (alone.out.offline is None) is not offline
        for field in ("text", "image", "both", "kin", "related") if offline else ():
            close(getattr(rank.out.offline, field), getattr(alone.out.offline, field), field)
        for buffer, value in alone.buffers.items():
            close(rank.buffers[buffer], value, buffer)
    close((ranks[0].loss + ranks[1].loss) / 2, alone.loss, "loss")
    assert ranks[0].grads.keys() == ranks[1].grads.keys() == alone.grads.keys()
    for parameter, grad in alone.grads.items():
        close((ranks[0].grads[parameter] + ranks[1].grads[parameter]) / 2, grad, parameter)
        assert grad.any(), f"{parameter} takes part, so that its being equal says something"


def test_dropout_of_the_matchers_own_loss_is_drawn_for_items_not_for_ranks(index: PairIndex) -> None:
    alone, ranks = both(index, "vsrn", {"input_dropout_p": 0.5})
    whole = alone.out.aux["caption"]
    close((ranks[0].out.aux["caption"] + ranks[1].out.aux["caption"]) / 2, whole)
    (batch,) = batches(index, 1)
    assert batch.keys is not None
    batch = replace(batch, keys=batch.keys + 1)
    other = match_batch(matcher_of("vsrn", {"input_dropout_p": 0.5}), batch, Solo(), nullcontext)
    assert (other.aux["caption"] - whole).abs() > 1e-3


def scored(matcher: Matcher, batch: Batch, image: int, text: int) -> Tensor:
    """The score of one image with one text of a batch."""
    pair = batch.images.slice(image, image + 1), batch.texts.slice(text, text + 1)
    return matcher.score(matcher.encode_image(pair[0]), matcher.encode_text(pair[1]))[0, 0]


def test_scores_are_those_of_the_named_pairs(index: PairIndex) -> None:
    """Of a matcher without statistics over a batch: each pair is scored as if it were alone."""
    matcher, (batch,) = matcher_of("bfan", {}), batches(index, 1)
    out = match_batch(matcher, batch, Solo(), nullcontext)
    assert out.offline is not None
    for item in range(ITEMS):
        for other in range(ITEMS):
            close(out.scores["match"][item, other], scored(matcher, batch, item, other))
        off, off2 = ITEMS + item, 2 * ITEMS + item
        for name, pair in (("text", (item, off)), ("image", (off, item)), ("both", (off, off)), ("kin", (off2, off2))):
            close(getattr(out.offline, name)[item], scored(matcher, batch, *pair), name)


def test_true_pairs_are_told_over_all_ranks(index: PairIndex) -> None:
    """Items of the same image, also on another rank, and offline negatives that belong together."""
    parts = batches(index, 2)
    for part, numbers in zip(parts, ([0, 1, 2, 0], [3, 2, 4, 0]), strict=True):
        part.number[:4], part.owner[:4] = torch.tensor(numbers), torch.tensor(numbers)
        part.number[4:8], part.owner[4:8] = torch.tensor([7, 8, 7, 9]), torch.tensor([7, 7, 7, numbers[0]])
    matchers = [matcher_of("bfan", {}) for _ in parts]
    items = torch.tensor([0, 1, 2, 0, 3, 2, 4, 0])
    for out in on_ranks(2, lambda comm: match_batch(matchers[comm.rank], parts[comm.rank], comm, nullcontext)):
        assert out.offline is not None
        assert out.positive is not None
        assert out.positive.tolist() == (items[:, None] == items).tolist()
        assert out.offline.related.tolist() == [True, False, True, False] * 2
        assert out.keys is not None
        assert out.keys.dtype == torch.int64
        assert out.keys.tolist() == [int(key) for part in parts if part.keys is not None for key in part.keys]
        assert len(out.keys.unique()) == ITEMS


def test_statistics_are_of_each_set_in_turn_unless_all_are_encoded_at_once(index: PairIndex) -> None:
    (batch,), matcher = batches(index, 1), matcher_of("vsrn", {"variant": "F"})
    by_hand, at_once, together = (deepcopy(matcher) for _ in range(3))
    for start in (0, ITEMS, 2 * ITEMS):
        by_hand.encode_image(batch.images.slice(start, start + ITEMS))
    together.encode_image(batch.images)
    one, three = (match_batch(model, batch, Solo(), nullcontext, separate) for model, separate in
                  ((at_once, False), (matcher, True)))
    for expected, ours in ((by_hand, matcher), (together, at_once)):
        theirs = dict(expected.named_buffers())
        for name, buffer in ours.named_buffers():
            close(buffer, theirs[name], name)
    assert (one.scores["match"] - three.scores["match"]).abs().max() > 1e-3


def test_without_statistics_it_is_all_the_same_how_sets_are_encoded(index: PairIndex) -> None:
    (batch,), matcher = batches(index, 1), matcher_of("bfan", {})
    one, three = (match_batch(matcher, batch, Solo(), nullcontext, separate) for separate in (False, True))
    close(one.scores["match"], three.scores["match"])
    assert one.offline is not None
    assert three.offline is not None
    close(one.offline.kin, three.offline.kin)


def test_a_rank_sends_the_whole_loss_times_the_ranks_and_its_own_as_it_is() -> None:
    terms = {"a": Term(torch.tensor(3.0), summed=True), "b": Term(torch.tensor(4.0), weight=0.5),
             "seen": Term(torch.tensor(100.0), counted=False)}
    assert total_loss(terms, {"own": torch.tensor(7.0)}, 1) == 3 + 2 + 7
    assert total_loss(terms, {"own": torch.tensor(7.0)}, 4) == 4 * (3 + 2) + 7
    assert total_loss(terms, {}, 2) == 10


def test_a_match_is_first_in_its_batch_where_it_is_ahead_of_all_negatives() -> None:
    scores, items = torch.tensor([[3.0, 2, 3], [2, 1, 0], [1, 0, 4]]), torch.arange(3)
    # Images: 3 is not ahead of 3, 1 is behind, 4 is ahead. Texts: 3 is ahead, 1 is behind, 4 is ahead.
    found = batch_recall(scores, items[:, None] == items)
    assert [value.item() for value in found.values()] == pytest.approx([1 / 3, 2 / 3])
    # Where the first two items share an image, nobody is ahead of the second.
    items[1] = 0
    found = batch_recall(scores, items[:, None] == items)
    assert [value.item() for value in found.values()] == pytest.approx([2 / 3, 1])
    assert list(found) == ["batch_r1_i", "batch_r1_t"]


def test_what_is_logged_is_the_same_for_one_rank_and_for_two(make_run: MakeItemRun) -> None:
    """Of the variant whose batch norm shows from the first update on: the regime lets it see all ranks."""
    variant: dict[str, Any] = {"offline": True, "matcher": {"variant": "F"}}
    def logged(regime: BatchRegime) -> dict[str, Tensor]:
        plan, batch = next(iter(regime.loader(16)))
        done = regime.losses(plan, batch, 3, Clock())
        assert done.pairs == done.anchors * 8
        return done.logged

    alone = logged(BatchRegime(build_recipe(make_run(**variant, optim={"train_batch_size": 8}), Solo())))
    run = make_run(**variant, optim={"train_batch_size": 4})
    recipes = [build_recipe(run, Pretended(rank, 2)) for rank in range(2)]
    ranks = on_ranks(2, lambda comm: logged(BatchRegime(replace(recipes[comm.rank], comm=comm))))
    assert {"loss", "caption", "online_i", "offline_kin", "weight_i", "batch_r1_t"} <= alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, value, rtol=1e-5, atol=1e-5, msg=name)
    parts = [alone[name] for name in ("online_i", "online_t", *OFFLINE, "caption")]
    torch.testing.assert_close(alone["loss"], torch.stack(parts).sum())


def test_how_sets_are_encoded_is_as_the_run_says(make_run: MakeItemRun) -> None:
    losses = []
    for separate in (True, False):
        run = make_run(offline=True, matcher={"variant": "F"}, negatives={"separate_passes": separate})
        regime = BatchRegime(build_recipe(run, Solo()))
        losses.append(regime.losses(*next(iter(regime.loader(0))), 0, Clock()).total.item())
    assert abs(losses[0] - losses[1]) > 1e-2


def fitted(run: Run, folder: Path, start: Path | None = None, validate: bool = True) -> Trainer:
    trainer = Trainer(BatchRegime(build_recipe(run, Solo())), Journal(folder, tensorboard=False), folder)
    if start:
        trainer.resume(start)
    assert trainer.fit(trainer.recipe.split("val") if validate else None) == 0
    return trainer


def curve(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in event.items() if name not in CLOCKED}
            for event in events(folder, "train")]


@pytest.mark.parametrize("offline", [True, False])
def test_a_resumed_run_ends_to_the_bit_the_same(offline: bool, make_run: MakeItemRun, tmp_path: Path) -> None:
    """Weights, statistics, draws and all: nothing depends on when a validation was, or on what came before."""
    run = make_run(offline, optim={"num_train_steps": 6, "train_batch_size": 12}, eval={"valid_steps": 2},
                   output={"keep": 9})  # fmt: skip
    whole = fitted(run, tmp_path / "whole")
    again = fitted(run, tmp_path / "again", tmp_path / "whole" / "ckpt" / "step-00000002")
    blind = fitted(run, tmp_path / "blind", validate=False)
    assert whole.slot == again.slot == 72, "48 captions: the second epoch has begun"
    for other in (again, blind):
        for name, tensor in whole.matcher.state_dict().items():
            assert torch.equal(other.matcher.state_dict()[name], tensor), name
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")[2:]
    assert curve(tmp_path / "blind") == curve(tmp_path / "whole")
    assert all(event["caption"] > 0 for event in curve(tmp_path / "whole"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["vsrn", "bfan"])
def test_half_precision_costs_nearly_the_same(name: str, precision: str, index: PairIndex) -> None:
    (batch,), matcher = batches(index, 1), small(name).train()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    half = match_batch(matcher, batch, Solo(), lambda: torch.autocast("cpu", dtype))
    whole = match_batch(matcher, batch, Solo(), nullcontext)
    assert half.offline is not None
    assert whole.offline is not None
    assert half.offline.both.dtype == torch.float32
    for ours, theirs in ((half.scores["match"], whole.scores["match"]), (half.offline.kin, whole.offline.kin)):
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.05)


def test_dropout_that_items_do_not_key_is_drawn_by_the_place_in_the_sequence(make_run: MakeItemRun) -> None:
    regime = BatchRegime(build_recipe(make_run(), Solo()))
    draws = []
    for slot in (0, 4, 0):
        regime.losses(*next(iter(regime.loader(slot))), 0, Clock())
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[2] != draws[1]


def test_what_the_objective_looks_at_must_be_there(make_run: MakeItemRun) -> None:
    assert BatchRegime(build_recipe(make_run(), Solo())).items.sets == 1
    assert BatchRegime(build_recipe(make_run(offline=True), Solo())).items.sets == 3
    with pytest.raises(ConfigError, match=r"objective\.name = quintuplet: needs offline negatives; .*--offline FOLDER"):
        BatchRegime(build_recipe(make_run(objective={"name": "quintuplet"}), Solo()))
    with pytest.raises(ConfigError, match=r"objective\.name = hinge: compares the candidates of anchored pools"):
        BatchRegime(build_recipe(make_run(objective={"name": "hinge"}), Solo()))


@pytest.mark.parametrize(("negatives", "message"), [
    ({"offline": "/nowhere"}, "offline=/nowhere: there is no such folder; name the one that train/mine.py wrote"),
    ({"offline_range": 11}, "has 10 columns, offline_range wants 11; lower it or mine them again"),
    ({"offline_rank_ratio": 3}, "has 2 columns, offline_range over offline_rank_ratio wants 4; lower it or")])
def test_candidates_that_do_not_fit_are_refused_before_the_first_batch(
    negatives: dict[str, Any], message: str, make_run: MakeItemRun
) -> None:
    with pytest.raises(DataError, match=message):
        BatchRegime(build_recipe(make_run(offline=True, negatives=negatives), Solo()))


def test_offline_texts_may_be_longer_than_the_anchors(make_run: MakeItemRun) -> None:
    """Those are short, as told; candidates are whoever was mined."""
    regime = BatchRegime(build_recipe(make_run(offline=True, data={"max_txt_len": 3}), Solo()))
    index, longest = regime.recipe.train.index, 0
    plans = regime.plans(0)
    for plan in (next(plans) for _ in range(20)):
        words = index.words[plan.texts].reshape(3, -1)
        assert words[0].max() <= 5
        longest = max(longest, words[1:].max())
        assert words.sum() <= regime.capacity.words
    assert longest == index.words.max()


def test_all_texts_are_checked_where_candidates_may_be_any(
    make_run: MakeItemRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    monkeypatch.setattr(BatchRegime, "check", lambda _, texts: checked.append(len(texts)))
    for offline in (False, True):
        regime = BatchRegime(build_recipe(make_run(offline, data={"max_txt_len": 3}), Solo()))
    assert checked == [len(regime.anchors), len(regime.recipe.train.index.texts)]
