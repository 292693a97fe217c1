"""train/mine.py: what is mined, and one line for what cannot be."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import load
from config.errors import ConfigError, DataError
from config.schema import Run
from data.batches.candidates import open_candidates
from data.batches.pairs import PairIndex
from model.vsrn import Vsrn
from tests.drawn import write_picture_store
from tests.items import VSRN, items_config
from tests.pieces import write_pieces
from tests.support import events, write_config
from train.assembly.kinds import KINDS
from train.distributed.comm import Solo
from train.mine import flags, work

SMALL = ("--texts_per_image", "9", "--images_per_text", "4")


@pytest.fixture
def run(stores: tuple[Path, Path], tmp_path: Path) -> Run:
    """A small VSRN on the tiny stores."""
    return run_of(stores, tmp_path)


def run_of(stores: tuple[Path, Path], folder: Path, **data: Any) -> Run:
    config = items_config(stores) | {"matcher": VSRN}
    config["data"].update(data)
    config["output"]["output_dir"] = str(folder / "out")
    return load(write_config(folder / "run.json", config), {}, KINDS)


def args_of(*words: str | Path, dry_run: bool = False) -> Namespace:
    parser = ArgumentParser()
    flags(parser)
    args = parser.parse_args([*map(str, words), *SMALL])
    args.dry_run, args.said = dry_run, frozenset()
    return args


def mined(run: Run, *words: str | Path, dry_run: bool = False) -> None:
    assert work(run, args_of(*words, dry_run=dry_run), Solo()) == 0


def save(folder: Path, images: object, texts: object) -> Path:
    """A folder of published embeddings."""
    folder.mkdir()
    np.save(folder / "img_embstrain.npy", np.asarray(images), allow_pickle=False)
    np.save(folder / "cap_embstrain.npy", np.asarray(texts), allow_pickle=False)
    return folder


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Of 24 images with two captions each, in float64 as published ones are."""
    rng = np.random.default_rng(0)
    return save(tmp_path / "embs", rng.standard_normal((24, 8)), rng.standard_normal((48, 8)))


def test_the_lists_go_beside_the_checkpoints(run: Run, index: PairIndex, tmp_path: Path) -> None:
    mined(run, "--which", "random")
    assert open_candidates(tmp_path / "out" / "offline", index, 9, 4).checked


@pytest.mark.parametrize("given", [True, False])
def test_what_it_took_is_told(given: bool, run: Run, embeddings: Path, tmp_path: Path) -> None:
    """Each pair is compared once; of given embeddings nothing is encoded."""
    lists = tmp_path / "lists"
    mined(run, *(("--embeddings", embeddings) if given else ("--which", "random")), "--lists", lists)
    (event,) = events(tmp_path / "out", "mine")
    assert event["name"] == str(lists)
    assert event["pairs_per_s"] * event["elapsed_s"] == pytest.approx(24 * 48, rel=2e-3)
    assert (event["images_per_s"] > 0) == (event["texts_per_s"] > 0) == (event["ranks"]["load_s"][0] > 0) == (not given)
    told = (tmp_path / "out" / "log.txt").read_text().splitlines()
    assert any(f"{lists}: took " in line and " pairs/s " in line and "data " in line for line in told)
    assert any("100 % of 1 tiles" in line and "pairs/s" in line for line in told)


def test_random_weights_are_only_mined_when_told_to(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"out: holds no checkpoint; name one with --which PATH"):
        mined(run)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(
    run: Run, embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mined(run, "--which", "random", dry_run=True)
    mined(run, "--embeddings", embeddings, dry_run=True)
    assert capsys.readouterr().err == "ready: 24 images x 48 texts\n" * 2
    assert not (tmp_path / "out").exists()


def test_embeddings_belong_to_the_stores(run: Run, index: PairIndex, embeddings: Path, tmp_path: Path) -> None:
    mined(run, "--embeddings", embeddings, "--lists", tmp_path / "lists")
    found = open_candidates(tmp_path / "lists", index, 9, 4)
    assert found.checked
    images, texts = (np.load(embeddings / f"{name}_embstrain.npy").astype(np.float32) for name in ("img", "cap"))
    scores = images.astype(np.float64) @ texts.T.astype(np.float64)
    scores[index.owner, np.arange(48)] = -np.inf
    np.testing.assert_array_equal(found.i2t, np.argsort(-scores, 1, kind="stable")[:, :9])
    np.testing.assert_array_equal(found.t2i, np.argsort(-scores.T, 1, kind="stable")[:, :4])


def test_embeddings_of_pictures_belong_to_their_stores(
    embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Vsrn, "takes_pictures", True)
    names = [f"{number}.jpg" for number in range(24)]
    write_picture_store(tmp_path / "img", names)
    run = run_of((write_pieces(tmp_path / "pieces.db", names), tmp_path / "img"), tmp_path)
    mined(run, "--embeddings", embeddings, dry_run=True)
    assert capsys.readouterr().err == "ready: 24 images x 48 texts\n"


def test_embeddings_without_stores(stores: tuple[Path, Path], embeddings: Path, tmp_path: Path) -> None:
    run = run_of(stores, tmp_path, train_txt_dbs=[], train_img_dbs=[])
    mined(run, "--embeddings", embeddings, "--captions_per_image", "2", "--lists", tmp_path / "lists")
    t2i = np.load(tmp_path / "lists" / "t2i_train.npy", allow_pickle=False)
    assert not (t2i == np.arange(48)[:, None] // 2).any(), "its own image is no candidate"
    with pytest.raises(ConfigError, match=r"whose is each caption\? Name the stores .*or give --captions_per_image N"):
        mined(run, "--embeddings", embeddings)
    with pytest.raises(DataError, match=r"48 captions are not 5 to each of 24 images; embed each image once"):
        mined(run, "--embeddings", embeddings, "--captions_per_image", "5")


@pytest.mark.parametrize(("words", "told"), [
    (("--captions_per_image", "5"), "--captions_per_image comes with --embeddings"),
    (("--embeddings", "{embs}", "--captions_per_image", "2"), "both say whose a caption is; give one of them"),
    (("--embeddings", "{embs}", "--which", "latest"), "--embeddings and --which exclude each other"),
])
def test_flags_that_exclude_each_other(words: tuple[str, ...], told: str, run: Run, embeddings: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        mined(run, *(word.format(embs=embeddings) for word in words))


def test_a_place_for_the_lists_is_asked_for(stores: tuple[Path, Path], tmp_path: Path) -> None:
    config = items_config(stores) | {"matcher": VSRN}
    run = load(write_config(tmp_path / "run.json", config), {}, KINDS)
    with pytest.raises(ConfigError, match=r"output_dir is not set; give --output_dir FOLDER .*or --lists FOLDER"):
        mined(run, "--which", "random")


@pytest.mark.parametrize(("images", "texts", "told"), [
    (np.ones((24, 8)), np.ones((48, 9)), r"img_embstrain\.npy is 8 wide and .*cap_embstrain\.npy 9; give two of one"),
    (np.ones((23, 8)), np.ones((48, 8)), r"embeddings of 23 images and 48 captions, but the stores have 24 and 48"),
    (np.ones(24), np.ones((48, 8)), r"img_embstrain\.npy: float64 \[24\] is no table of embeddings"),
    (np.ones((24, 8), np.int32), np.ones((48, 8)), r"int32 \[24, 8\] is no table of embeddings"),
    (np.ones((24, 8)), np.diag(np.full(48, np.nan))[:, :8] * 0 + 1, r"cap_embstrain\.npy: row 0 is not finite"),
])
def test_embeddings_that_do_not_fit(images: np.ndarray, texts: np.ndarray, told: str, run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        mined(run, "--embeddings", save(tmp_path / "embs", images, texts))
    assert not (tmp_path / "out").exists()


def test_a_folder_without_embeddings(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 0 files img_embs\*\.npy, one is wanted; name another folder"):
        mined(run, "--embeddings", tmp_path)


def test_an_array_that_is_cut_off(run: Run, embeddings: Path) -> None:
    path = embeddings / "img_embstrain.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"img_embstrain\.npy: not a whole array"):
        mined(run, "--embeddings", embeddings)
