"""train/mining as a whole: jobs from embeddings or weights to lists, against a float64 search over all pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import load
from config.errors import ConfigError, DataError
from data.batches.candidates import MANIFEST, open_candidates
from data.batches.pairs import PairIndex
from tests.items import VSRN, items_config
from tests.mined import CPU, embeddings, owners, searched
from tests.support import DIM, VOCAB, write_config
from tests.train.conftest import MakeRun
from train.assembly.kinds import KINDS
from train.assembly.recipe import Parts, build_parts
from train.distributed.comm import Solo
from train.metrics.journal import Journal
from train.mining import job as module
from train.mining.distributed_scan import DistributedScan
from train.mining.filters import Ceilings, Excluded, extra_pairs, positive_pairs, same_word_pairs
from train.mining.job import Job, as_operands, mine
from train.mining.lists import Task
from train.mining.manifest import GivenEmbeddings, checksum
from train.mining.settings import Settings
from train.mining.storage import open_memmap

Start = Callable[..., Job]
SMALL = Settings(texts_per_image=9, images_per_text=4, max_tile_bytes=1 << 12, save_seconds=0.0)
BFAN = {"name": "bfan", "vocab_size": VOCAB, "img_dim": DIM, "embed_size": 8, "word_dim": 6}


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """`start(texts_per_image=..., ...)`: a job on embeddings that lie in files."""
    images, texts = embeddings(30, 110)
    for name, values in (("img_embs_x", images), ("cap_embs_x", texts)):
        np.save(tmp_path / f"{name}.npy", values.numpy(), allow_pickle=False)
    source = GivenEmbeddings(tmp_path / "img_embs_x.npy", tmp_path / "cap_embs_x.npy")

    def made(**settings: Any) -> Job:
        asked = replace(SMALL, **settings)
        return Job(Solo(), CPU, tmp_path / "lists", asked, source, owners(30, 110), None, lambda _: None)

    return made


def parts_of(stores: tuple[Path, Path], folder: Path, matcher: dict[str, Any]) -> Parts:
    """A matcher where it computes."""
    config = items_config(stores) | {"matcher": matcher}
    return build_parts(load(write_config(folder / "run.json", config), {}, KINDS), Solo())


@pytest.fixture
def parts(stores: tuple[Path, Path], tmp_path: Path) -> Parts:
    """A small VSRN."""
    return parts_of(stores, tmp_path, VSRN)


def lists_in(folder: Path) -> list[np.ndarray]:
    return [np.load(folder / f"{side}_train.npy", allow_pickle=False) for side in ("i2t", "t2i")]


def kept_embeddings(folder: Path) -> list[torch.Tensor]:
    return [torch.from_numpy(open_memmap(folder / f"{name}_train.npy")) for name in ("img_embs", "cap_embs")]


def task_of(job: Job) -> Task:
    source = job.source
    assert isinstance(source, GivenEmbeddings)
    images, texts = (torch.from_numpy(np.load(path, allow_pickle=False)) for path in (source.images, source.texts))
    wanted = job.settings.texts_per_image, job.settings.images_per_text
    return Task(images, texts, wanted, Excluded.of(positive_pairs(job.owner)))


def same(found: list[np.ndarray], task: Task) -> bool:
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(found, searched(task), strict=True))


def test_the_lists_are_in_the_published_layout(start: Start) -> None:
    one = start()
    one.run()
    found = lists_in(one.folder)
    assert same(found, task_of(one))
    assert [(values.dtype, values.shape) for values in found] == [(np.int32, (30, 9)), (np.int32, (110, 4))]
    assert sorted(path.name for path in one.folder.iterdir()) == ["i2t_train.npy", MANIFEST, "t2i_train.npy"]


def test_the_manifest_says_what_was_mined(start: Start) -> None:
    one = start(score_margin=-9.0, operands="float16")
    one.run()
    assert isinstance(one.source, GivenEmbeddings)
    facts = json.loads((one.folder / MANIFEST).read_text())
    assert facts["order"] is None
    assert (facts["images"], facts["texts"]) == (30, 110)
    assert (facts["texts_per_image"], facts["images_per_text"], facts["dtype"]) == (9, 4, "int32")
    assert facts["ties"] == "score descending, then index ascending"
    assert facts["embeddings"] == [checksum(one.source.images), checksum(one.source.texts)]
    assert (facts["operands"], facts["score_margin"], facts["same_words"]) == ("float16", -9.0, "kept")


def test_scores_are_written_on_demand(start: Start) -> None:
    one = start(scores=True)
    one.run()
    table = (task_of(one).images.double() @ task_of(one).texts.double().T).numpy()
    for found, name, scores in zip(lists_in(one.folder), ("i2t", "t2i"), (table, table.T), strict=True):
        written = np.load(one.folder / f"scores_{name}_train.npy", allow_pickle=False)
        np.testing.assert_allclose(written, np.take_along_axis(scores, found.astype(int), 1), rtol=1e-6, atol=1e-6)


def test_what_was_mined_is_not_mined_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start().run()
    with monkeypatch.context() as patch:
        patch.setattr(DistributedScan, "run", lambda _: pytest.fail("mined again"))
        start().run()
    one = start(texts_per_image=8, overwrite=True)
    one.run()
    assert lists_in(one.folder)[0].shape == (30, 8)


def test_a_stopped_job_scans_nothing_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one = start()

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "finish_lists", stopped)
        with pytest.raises(KeyboardInterrupt):
            one.run()
    assert not list(one.folder.glob("*.npy"))
    with monkeypatch.context() as patch:
        patch.setattr(DistributedScan, "_take_in", lambda *_: pytest.fail("scanned again"))
        one.run()
    assert same(lists_in(one.folder), task_of(one))


def test_embeddings_that_changed_are_mined_anew(start: Start) -> None:
    one = start(overwrite=True)
    one.run()
    assert isinstance(one.source, GivenEmbeddings)
    np.save(one.source.images, np.load(one.source.images, allow_pickle=False)[::-1], allow_pickle=False)
    one.run()
    assert same(lists_in(one.folder), task_of(one))


def test_float64_embeddings_are_rounded() -> None:
    assert as_operands(np.ones((2, 2)), "float32").dtype == torch.float32
    assert as_operands(np.ones((2, 2), np.float32), "float16").dtype == torch.float16


def test_too_many_candidates_are_told_before_anything_is_scanned(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistributedScan, "run", lambda _: pytest.fail("scanned"))
    with pytest.raises(DataError, match=r"has only \d+ texts left as candidates, 110 are wanted; lower --texts_per_im"):
        start(texts_per_image=110).run()


@pytest.mark.parametrize("flag", ["same_words", "extra_pairs"])
def test_filters_by_caption_want_stores(flag: str, start: Start, tmp_path: Path) -> None:
    (tmp_path / "more.tsv").write_text("a\tb\n")
    one = start(**{flag: tmp_path / "more.tsv" if flag == "extra_pairs" else True})
    with pytest.raises(ConfigError, match="in the stores; name them with train_txt_dbs"):
        one.run()


def test_a_missing_file_of_pairs(start: Start, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: cannot be read \(No such file"):
        start(extra_pairs=tmp_path / "none.tsv").run()


def test_a_matcher_is_mined_and_training_reads_it(parts: Parts, index: PairIndex, tmp_path: Path) -> None:
    parts.matcher.train()
    mine(parts, index, tmp_path / "lists", replace(SMALL, keep_embeddings=True), "step 7", Journal(None))
    assert parts.matcher.training, "as it was"
    found = open_candidates(tmp_path / "lists", index, 9, 4)
    assert found.checked
    task = Task(*kept_embeddings(tmp_path / "lists"), (9, 4), Excluded.of(positive_pairs(index.owner)))
    assert same([found.i2t, found.t2i], task)
    manifest = json.loads((tmp_path / "lists" / MANIFEST).read_text())
    assert (manifest["checkpoint"], manifest["order"]) == ("step 7", index.order_hash)


def test_other_weights_are_mined_anew(parts: Parts, index: PairIndex, tmp_path: Path) -> None:
    settings = replace(SMALL, overwrite=True)
    mine(parts, index, tmp_path, settings, "one", Journal(None))
    before = lists_in(tmp_path)
    with torch.no_grad():
        for parameter in parts.matcher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    mine(parts, index, tmp_path, settings, "two", Journal(None))
    assert not np.array_equal(before[0], lists_in(tmp_path)[0])


def test_filters_by_the_stores(parts: Parts, index: PairIndex, tmp_path: Path) -> None:
    (tmp_path / "more.tsv").write_text(f"{index.images[2]}\t{index.texts[0]}\n")
    settings = replace(SMALL, texts_per_image=3, images_per_text=1, same_words=True, extra_pairs=tmp_path / "more.tsv",
                       score_margin=-1.5, keep_embeddings=True)
    mine(parts, index, tmp_path / "lists", settings, "", Journal(None))
    images, texts = kept_embeddings(tmp_path / "lists")
    excluded = Excluded.of(
        positive_pairs(index.owner), same_word_pairs(index), extra_pairs(tmp_path / "more.tsv", index)
    )
    ceilings = Ceilings.below(images, texts, index.owner, -1.5)
    assert same(lists_in(tmp_path / "lists"), Task(images, texts, (3, 1), excluded, ceilings))


def test_a_late_head_is_mined_by_its_own_scores(stores: tuple[Path, Path], index: PairIndex, tmp_path: Path) -> None:
    late = parts_of(stores, tmp_path, BFAN)
    mine(late, index, tmp_path, replace(SMALL, shortlist=1000, scores=True), "", Journal(None))
    with torch.inference_mode():
        everyone = np.arange(len(index.images)), np.arange(len(index.texts))
        table = late.matcher.score(late.scorer.encode_images(index, everyone[0]),
                                   late.scorer.encode_texts(index, everyone[1])).double()
    table = table.clone()
    table[torch.from_numpy(index.owner), torch.arange(len(index.texts))] = -torch.inf
    for found, name, scores in zip(lists_in(tmp_path), ("i2t", "t2i"), (table, table.T), strict=True):
        best = scores.sort(dim=1, descending=True).values[:, : found.shape[1]].numpy()
        np.testing.assert_allclose(np.take_along_axis(scores.numpy(), found.astype(int), 1), best, atol=3e-5)
        written = np.load(tmp_path / f"scores_{name}_train.npy", allow_pickle=False)
        np.testing.assert_allclose(written, best, atol=3e-5)


def test_a_joint_head_cannot_be_mined(make_run: MakeRun, index: PairIndex, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"head match of this matcher sees each pair together.*mine with vsrn or bfa"):
        mine(build_parts(make_run(), Solo()), index, tmp_path / "lists", SMALL, "", Journal(None))
    assert not (tmp_path / "lists").exists()
