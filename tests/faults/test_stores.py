"""Damaged stores: whatever is cut, turned or gone, a store says what it said before, or refuses in one line."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.batches.candidates import ORDER, open_candidates
from data.files import read_checked_array, write_checked_array
from data.records.regions import RegionRule
from data.source.whitener import Whitener
from data.stores.image_store import ImageStore
from data.stores.image_writer import ImageWriter
from data.stores.picture_store import PictureView
from data.stores.text_store import TextStore
from tests.arrays import FLICKR, extracted, write_image_store
from tests.drawn import write_picture_store
from tests.faults.outcomes import CLEAN, REFUSED, count_outcomes, files_below, survives
from tests.flow import warm
from tests.items import random_candidates, write_candidates
from tests.pieces import write_pieces
from tests.support import config_of, open_index, write_config, write_stores
from train.mining.output_folder import OutputFolder
from train.mining.storage import load_tensors, save_tensors
from train.scoring.scores import Scores, open_scores, read_origin, write_scores

RULE = RegionRule(conf_th=0.5, max_bb=9, min_bb=3)
WHOLE = RegionRule(conf_th=0.0, max_bb=100, min_bb=1)
NAMES = [f"{number}.jpg" for number in range(3)]
Look = Callable[[], Any]


def sums(*arrays: np.ndarray) -> list[str]:
    """Arrays by their types, shapes and bytes."""
    return [f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}" for array in arrays]


def all_texts(folder: Path) -> Look:
    """Everything that a text store says."""

    def look() -> Any:
        with closing(TextStore(folder)) as store:
            said = [store.ids, store.images, store.image_order, store.special, store.meta, sums(store.lengths)]
            return said + [(sums(store.tokens(id)), store.record(id)) for id in store.ids]

    return look


def all_images(folder: Path, rule: RegionRule) -> Look:
    """Everything that an image store says."""

    def look() -> Any:
        with closing(ImageStore(folder, rule)) as store:
            said = [store.names, store.dim, store.dtype, store.has_boxes, store.meta, store.codec, store.path.name]
            return [*said, sums(store.counts(store.names)), *(sums(*store.read(name)) for name in store.names)]

    return look


def all_pictures(folder: Path) -> Look:
    """Everything that a picture store says."""

    def look() -> Any:
        pixels, boxes = np.empty((1, 3, 8, 8), np.uint8), np.empty((1, 7), np.float32)
        with closing(PictureView(8).open(folder)) as store:
            said: list[Any] = [store.names, store.meta, sums(store.counts(store.names))]
            for name in store.names:
                store.read_into(name, pixels, boxes)
                said += [store.stored(name), sums(pixels)]
            return said

    return look


def texts(folder: Path) -> Look:
    return all_texts(write_pieces(folder / "toy.db", NAMES))


def native(folder: Path) -> Look:
    write_image_store(folder / "img", "native", RULE)
    return all_images(folder / "img", RULE)


def large_native(folder: Path) -> Look:
    """Records longer than a page, which lie outside of the tree of keys, all equally long."""
    write_image_store(folder / "img", "native", RULE, width=256, images=4)
    return all_images(folder / "img", RULE)


def published(folder: Path) -> Look:
    write_image_store(folder / "img", "published", RULE)
    return all_images(folder / "img", RULE)


def compressed(folder: Path) -> Look:
    rule = RegionRule(RULE.conf_th, RULE.max_bb, RULE.min_bb, compressed=True)
    write_image_store(folder / "img", "compressed", rule)
    return all_images(folder / "img", rule)


def boxless(folder: Path) -> Look:
    with ImageWriter(folder / "img", rule=WHOLE, features_only="float32") as writer:
        for number in range(4):
            writer.add_features(FLICKR.format(number), extracted(number)["features"])
    return all_images(folder / "img", WHOLE)


def pictures(folder: Path) -> Look:
    write_picture_store(folder / "img", NAMES)
    return all_pictures(folder / "img")


UNCHECKED = ("data.mdb", "seal.json", "vocab.txt")
"""Where damage may say nothing: room between records, a seal's own names; a vocabulary is checked by its hash."""
KINDS = (texts, native, large_native, published, compressed, boxless, pictures)


def all_outcomes(make: Callable[[Path], Look], folder: Path, every: bool) -> dict[str, Counter[str]]:
    """What comes of damage to each file of a store: to every byte, or to some."""
    look = make(folder)
    expected = look()
    assert look() == expected
    found = {}
    for path in files_below(folder):
        if path.parent != folder:  # beside the store lies what it was made of
            flips = path.stat().st_size if every else 150 if path.name == "data.mdb" else 20
            found[path.name] = count_outcomes(path, flips, look, expected)
    return found


def assert_nothing_goes_unseen(make: Callable[[Path], Look], folder: Path, every: bool) -> None:
    """In a process of its own: what LMDB cannot read, it may end with a signal."""

    def count() -> None:
        found = all_outcomes(make, folder / "store", every)
        print(make.__name__, {name: dict(outcomes) for name, outcomes in found.items()}, flush=True)
        assert found["data.mdb"][REFUSED] > 20
        assert all(outcomes[CLEAN] == 0 for name, outcomes in found.items() if name not in UNCHECKED)

    (folder / "store").mkdir()
    survives(count, folder / "failed")


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_no_damage_goes_unseen(make: Callable[[Path], Look], tmp_path: Path) -> None:
    """Where a bit says nothing, as in the room between records, the store is as before."""
    assert_nothing_goes_unseen(make, tmp_path, every=False)


@pytest.mark.soak
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_no_damage_to_any_byte_goes_unseen(make: Callable[[Path], Look], tmp_path: Path) -> None:
    assert_nothing_goes_unseen(make, tmp_path, every=True)


# ---------------------------------------------------------------- what is made of stores


def whitener(folder: Path) -> Look:
    generator = np.random.default_rng(0)
    Whitener.fit([generator.random((30, 5))], 3).save(folder / "whitener.npz")
    rows = generator.random((4, 5))
    return lambda: sums(Whitener.load(folder / "whitener.npz").transform(rows))


def mined(folder: Path) -> Look:
    """Candidates with the manifest that a mining job leaves."""
    (folder / "stores").mkdir()
    index = open_index(write_stores(folder / "stores", images=4))
    lists = write_candidates(folder / "made", random_candidates(index, 2, 1))
    place = OutputFolder(folder / "lists", "toy", {ORDER: index.order_hash})
    place.work.mkdir(parents=True)
    shutil.move(lists / "i2t_toy.npy", place.work / "i2t.npy")
    shutil.move(lists / "t2i_toy.npy", place.work / "t2i.npy")
    place.finish({place.work / f"{name}.npy": place.of(name) for name in ("i2t", "t2i")}, dict(place.facts))
    place.publish()
    shutil.rmtree(folder / "made")

    def look() -> Any:
        found = open_candidates(place.folder, index, 2, 1)
        return sums(found.i2t, found.t2i)

    return look


def scored(folder: Path) -> Look:
    owner = np.array([0, 0, 1, 2])
    names = Scores(np.zeros((3, 4)), ["a", "b", "c"], ["1", "2", "3", "4"], owner)
    (folder / "test").mkdir()
    write_scores(folder / "test", np.random.default_rng(0).random((3, 4)), names, "weights")

    def look() -> Any:
        found = open_scores(folder / "test")
        return sums(found.matrix, found.owner), found.images, found.texts, read_origin(folder / "test")

    return look


def piece(folder: Path) -> Look:
    write_checked_array(folder / "piece.npy", np.arange(9.0))
    return lambda: sums(read_checked_array(folder / "piece.npy"))


def state(folder: Path) -> Look:
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.tensor(True), "c": torch.rand(4)}
    save_tensors(folder / "state.safetensors", tensors)

    def look() -> Any:
        return {name: sums(tensor.numpy()) for name, tensor in load_tensors(folder / "state.safetensors").items()}

    return look


@pytest.mark.parametrize("make", [whitener, mined, scored, piece, state], ids=lambda make: make.__name__)
def test_no_damage_to_what_was_computed_goes_unseen(make: Callable[[Path], Look], tmp_path: Path) -> None:
    look = make(tmp_path)
    expected = look()
    found = {path.name: count_outcomes(path, 300, look, expected) for path in files_below(tmp_path)
             if "stores" not in path.parts}
    print(make.__name__, found)
    assert all(outcomes[REFUSED] for outcomes in found.values())


# ---------------------------------------------------------------- through a program


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change", "told"), [
    ("id2len.json", lambda content: content.replace(b"1", b"2", 1), r"id2len\.json is not as it was packed"),
    ("txt2img.json", lambda content: content.replace(b"000003", b"000004", 1), r"txt2img\.json is not as it was"),
    ("meta.json", None, r"meta\.json cannot be read"),
    ("nbb_th0.2_max8_min2.json", lambda content: content.replace(b"7", b"6", 1), r"nbb_\S+ is not as it was packed"),
    ("nbb_th0.2_max8_min2.json", None, r"nbb_\S+ cannot be read"),
    ("data.mdb", lambda content: content.replace(b"03.npz", b"04.npz", 1), "keys are not those|__keys__ is not"),
    ("data.mdb", lambda content: content[:-4096], "is cut short"),
    ("data.mdb", None, "no data.mdb|holds no image store"),
    ("seal.json", lambda content: content[:-9], r"seal\.json is not JSON"),
], ids=["length", "owner", "no description", "count", "no counts", "key", "short", "no records", "seal"])
def test_training_refuses_a_damaged_store(name: str, change: Callable[[bytes], bytes] | None, told: str,
                                          stores: tuple[Path, Path], tmp_path: Path) -> None:
    texts, images = (Path(shutil.copytree(store, tmp_path / store.name)) for store in stores)
    path = next(path for path in (*files_below(images), *files_below(texts)) if path.name == name)
    if change is None:
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(change(content))
        assert path.read_bytes() != content
    config = write_config(tmp_path / "c.json", config_of((texts, images)))
    done = warm.run("train/itm_hn.py", "--config", config, "--output_dir", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(told, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()
