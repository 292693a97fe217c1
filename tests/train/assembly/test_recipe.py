"""train/assembly/recipe.py: the parts of a run, put together without doing anything yet."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import load
from config.errors import ConfigError, DataError
from config.schema import Run
from data.stores.picture_store import PictureView
from model.matcher import Matcher
from model.vsrn import Vsrn
from tests.drawn import write_picture_store
from tests.items import items_config
from tests.pieces import PIECES, write_pieces
from tests.support import write_stores
from tests.train.conftest import MakeRun, Pretended
from train.assembly.kinds import KINDS
from train.assembly.optim import AdamW
from train.assembly.recipe import build_parts, build_recipe
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Solo
from train.loop.batch_regime import BatchRegime
from train.loop.pool_regime import PoolRegime


def same(a: Matcher, b: Matcher) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


def test_building_twice_gives_the_same_run(make_run: MakeRun) -> None:
    first, second = build_recipe(make_run(), Solo()), build_recipe(make_run(), Solo())
    assert same(first.matcher, second.matcher)
    ours, theirs = (PoolRegime(recipe).loader(4) for recipe in (first, second))
    for (plan, batch), (other, copy) in islice(zip(ours, theirs, strict=False), 3):
        assert plan.slot == other.slot
        assert torch.equal(batch.images.features.values, copy.images.features.values)
        assert torch.equal(batch.texts.values, copy.texts.values)


def test_the_seed_decides(make_run: MakeRun) -> None:
    first, second = build_recipe(make_run(), Solo()), build_recipe(make_run(seed=7), Solo())
    assert not same(first.matcher, second.matcher)
    orders = [PoolRegime(recipe).pools.order("t", 0) for recipe in (first, second)]
    assert not np.array_equal(*orders)


def test_every_rank_builds_the_same_weights_and_its_own_share(make_run: MakeRun) -> None:
    ranks = [PoolRegime(build_recipe(make_run(), Pretended(rank, 2))) for rank in range(2)]
    assert same(ranks[0].recipe.matcher, ranks[1].recipe.matcher)
    assert ranks[0].anchors_per_update == 8
    slots = [[plan.slot for plan, _ in islice(regime.loader(0), 8)] for regime in ranks]
    assert slots == [[0, 0, 4, 4, 8, 8, 12, 12], [2, 2, 6, 6, 10, 10, 14, 14]]


def test_an_objective_is_refused_what_the_matcher_does_not_offer(make_run: MakeRun) -> None:
    aligned: dict[str, Any] = {"objective": {"IAIS": "singular"}}
    assert PoolRegime(build_recipe(make_run(**aligned), Solo())).recipe.objective.needs == {"attention", "pools"}
    with pytest.raises(ConfigError, match=r"objective\.name = iais: needs attention, which matcher uniter .*--obj"):
        PoolRegime(build_recipe(make_run(**aligned, matcher={"hn_image_gather_offset": "last_caption"}), Solo()))


def test_building_reads_no_record_and_writes_nothing(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("data.batches.pairs.PairIndex.read_images", lambda *_: pytest.fail("read an image"))
    monkeypatch.setattr("data.batches.pairs.PairIndex.read_texts", lambda *_: pytest.fail("read a text"))
    regime = PoolRegime(build_recipe(run, Solo()))
    assert isinstance(regime.recipe.optimizer, AdamW)
    assert sorted(tmp_path.rglob("*")) == before


def test_splits_that_are_not_configured_are_none(make_run: MakeRun) -> None:
    parts = build_parts(make_run(data={"val_txt_db": "", "val_img_db": ""}), Solo())
    assert parts.split("val") is None
    assert parts.split("test") is not None


def test_a_split_must_fit_the_model(make_run: MakeRun) -> None:
    with pytest.raises(DataError, match="features are 16 wide but the model takes 12"):
        build_parts(make_run(matcher={"img_dim": 12}), Solo()).split("val")
    with pytest.raises(DataError, match="features are 16 wide but the model takes 12"):
        build_recipe(make_run(matcher={"img_dim": 12}), Solo())
    with pytest.raises(DataError, match="has 9 ids, its marks included, but the model takes 8"):
        build_parts(make_run(matcher={"max_position_embeddings": 8}, data={"max_txt_len": -1}), Solo()).split("val")


def test_short_captions_may_be_trained_on_by_a_short_model(make_run: MakeRun) -> None:
    """The long ones are never anchors nor negatives, so they need no position."""
    run = make_run(matcher={"max_position_embeddings": 16}, data={"max_txt_len": 4, "max_bb": 8})
    regime = PoolRegime(build_recipe(run, Solo()))
    words = regime.recipe.train.index.words
    assert words[regime.anchors].max() <= 6
    assert words.max() > 6


def saved(make_run: MakeRun, folder: Path, vocab_hash: str | None) -> Path:
    """A checkpoint whose weights are all 0.125."""
    weights = {name: torch.full_like(tensor, 0.125) for name, tensor in
               build_parts(make_run(), Solo()).matcher.state_dict().items()}
    return Checkpoints(folder, 1).write(Snapshot.of(1, weights, {}, {"_note": {"vocab_hash": vocab_hash}}))


def test_a_run_may_start_from_weights(make_run: MakeRun, tmp_path: Path) -> None:
    checkpoint = saved(make_run, tmp_path, "f" * 64)
    parts = build_parts(make_run(weights={"checkpoint": str(checkpoint)}), Solo())
    assert all((tensor == 0.125).all() for tensor in parts.matcher.state_dict().values())
    assert parts.vocab_hash == "f" * 64
    assert parts.split("val") is not None


def test_weights_named_for_an_evaluation_come_before_the_runs_own(make_run: MakeRun, tmp_path: Path) -> None:
    checkpoint = saved(make_run, tmp_path, None)
    parts = build_parts(make_run(weights={"checkpoint": "/nowhere"}), Solo(), str(checkpoint))
    assert parts.matcher.state_dict()["rank.bias"] == 0.125


def test_a_checkpoint_of_another_vocabulary_does_not_fit_the_stores(make_run: MakeRun, tmp_path: Path) -> None:
    checkpoint = saved(make_run, tmp_path, "e" * 64)
    run = make_run(weights={"checkpoint": str(checkpoint)})
    with pytest.raises(DataError, match=r"packed with vocabulary ffffffffffff, but .* trained with eeeeeeeeeeee"):
        build_recipe(run, Solo())
    with pytest.raises(DataError, match="packed with vocabulary"):
        build_parts(run, Solo()).split("test")


def test_validation_stores_must_have_the_training_vocabulary(make_run: MakeRun, tmp_path: Path) -> None:
    other = write_stores(tmp_path, name="b", vocab_hash="e" * 64)
    recipe = build_recipe(make_run(data={"val_txt_db": str(other[0]), "val_img_db": str(other[1])}), Solo())
    assert recipe.vocab_hash == "f" * 64
    with pytest.raises(DataError, match=r"b\.db: packed with vocabulary eeeeeeeeeeee"):
        recipe.split("val")


def test_the_rank_head_may_always_start_from_the_matching_head(make_run: MakeRun, tmp_path: Path) -> None:
    matcher = build_parts(make_run(), Solo()).matcher
    folder = Checkpoints(tmp_path, 1).write(Snapshot.of(1, matcher.state_dict(), {}, {}))
    for how, source in (("always", "match.weight"), ("if_missing", "rank.weight")):
        parts = build_parts(make_run(weights={"checkpoint": str(folder), "rank_head_init": how}), Solo())
        expected = matcher.state_dict()[source][-1:]
        assert torch.equal(parts.matcher.state_dict()["rank.weight"], expected)


# ---------------------------------------------------------------- pictures and altered captions


@pytest.fixture
def of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Runs of a matcher that says it takes pictures of 6 pixels, on stores of pictures and WordPieces."""
    monkeypatch.setattr(Vsrn, "takes_pictures", True)
    monkeypatch.setattr(Vsrn, "image_dim", 6)
    names = [f"{number}.jpg" for number in range(12)]
    write_picture_store(tmp_path / "img", names)
    stores = write_pieces(tmp_path / "pieces.db", names), tmp_path / "img"

    def made(**data: Any) -> Run:
        path = tmp_path / "run.json"
        path.write_text(json.dumps(items_config(stores, data=data, matcher={"vocab_size": len(PIECES)})))
        return load(path, {}, KINDS)

    return made


def test_training_looks_at_parts_of_pictures_and_evaluation_at_whole_ones(of_pictures: MakeRun) -> None:
    recipe = build_recipe(of_pictures(smallest_crop=0.6, picture_cache_mb=7), Solo())
    val = recipe.split("val")
    assert val is not None
    views = [split.index.sources[0].images.view for split in (recipe.train, val)]  # type: ignore[attr-defined]
    assert views == [PictureView(6, 0.6, 0), PictureView(6, 0.0, 7)]


def test_captions_are_altered_in_training_alone_and_only_where_that_is_wanted(of_pictures: MakeRun) -> None:
    assert build_recipe(of_pictures(), Solo()).augment is None
    recipe = build_recipe(of_pictures(word_augment=0.7, smallest_crop=0.6), Solo())
    assert recipe.augment is not None
    loader = BatchRegime(recipe).loader(0)
    changed = 0
    for plan, batch in islice(loader, 6):
        changed += int((batch.texts.lengths.numpy() < recipe.train.index.words[plan.texts]).sum())
        assert batch.images.features.values.shape == (4, 3, 6, 6)
    loader.close()
    assert changed


def test_regions_cannot_be_cropped(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"smallest_crop=0\.5: this matcher takes region features, which cannot be c"):
        build_recipe(make_run(data={"smallest_crop": 0.5}), Solo())
    build_parts(make_run(data={"smallest_crop": 0.5}), Solo())


def test_stores_without_their_vocabulary_cannot_be_altered(make_run: MakeRun) -> None:
    with pytest.raises(DataError, match=r"a\.db/vocab\.txt is not there, and word_augment=0\.2"):
        build_recipe(make_run(data={"word_augment": 0.2}), Solo())
