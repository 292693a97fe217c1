"""train/assembly/splits.py: stores that do not fit stop the run, and damaged records follow the policy."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from config.sections import Data, Named
from data.batches.pairs import PairIndex
from data.records.codec import DamagedRecord
from data.stores.picture_store import PictureStore, PictureView
from scripts import build_imgdb, build_txtdb
from tests.drawn import write_picture_store
from tests.pieces import PIECES, write_pieces
from tests.precomputed import write_precomputed, write_words
from tests.spoiled import CAPTION, IMAGE, spoiled
from tests.support import DIM, RULE, VOCAB, write_stores
from train.assembly.splits import (
    Split,
    check_against_model,
    check_lengths,
    find_damaged,
    open_split,
    store_folders,
    text_settings,
    write_quarantine,
)
from train.distributed.comm import Solo
from train.distributed.progress import Progress

Stores = tuple[Path, Path]
HASH = "f" * 64


def data_of(*stores: Stores, damaged: str = "fail", **sides: str) -> Data:
    texts, images = zip(*stores, strict=True) if stores else ((), ())
    return Data(train_txt_dbs=tuple(map(str, texts)), train_img_dbs=tuple(map(str, images)), conf_th=RULE.conf_th,
                max_bb=RULE.max_bb, min_bb=RULE.min_bb, damaged=damaged, **sides)  # type: ignore[arg-type]


def test_a_split_is_opened_by_name(stores: Stores, tmp_path: Path) -> None:
    data = data_of(stores, val_txt_db=str(stores[0]), val_img_db=str(stores[1]))
    for name in ("train", "val"):
        split = open_split(name, data, Solo())
        assert len(split.index.images) == 24
        assert split.vocab_hash == HASH
        assert split.left_out == ()
    assert store_folders("test", data) == []
    with pytest.raises(ConfigError, match="test_txt_db and test_img_db are not set"):
        open_split("test", data, Solo())


def test_several_stores_are_joined(stores: Stores, tmp_path: Path) -> None:
    other = write_stores(tmp_path, images=5, name="b", seed=3)
    split = open_split("train", data_of(stores, other), Solo())
    assert len(split.index.images) == 29
    assert len(split.index.sources) == 2


def test_stores_of_different_vocabularies_are_refused(stores: Stores, tmp_path: Path) -> None:
    other = write_stores(tmp_path, images=5, name="b", vocab_hash="e" * 64)
    with pytest.raises(DataError, match="vocabular") as told:
        open_split("train", data_of(stores, other), Solo())
    assert str(other[0]) in str(told.value)
    assert str(stores[0]) in str(told.value)


def test_a_store_without_a_hash_goes_with_any(stores: Stores, tmp_path: Path) -> None:
    other = write_stores(tmp_path, images=5, name="b", vocab_hash="")
    assert open_split("train", data_of(stores, other), Solo()).vocab_hash == HASH
    assert open_split("train", data_of(other), Solo()).vocab_hash is None


@pytest.fixture
def split(stores: Stores) -> Split:
    return open_split("train", data_of(stores), Solo())


def test_a_fitting_store_passes(split: Split) -> None:
    check_against_model(split, DIM, VOCAB, None, uses_boxes=True)
    check_against_model(split, DIM, VOCAB, HASH, uses_boxes=True)
    check_against_model(split, DIM, VOCAB + 1, HASH, uses_boxes=False)


@pytest.mark.parametrize(("dim", "vocabulary", "vocab_hash", "told"), [
    (DIM + 1, VOCAB, None, rf"features are {DIM} wide but the model takes {DIM + 1}; set matcher\.img_dim={DIM}"),
    (DIM, VOCAB - 1, None, rf"has {VOCAB} entries but the model knows {VOCAB - 1}; set matcher\.vocab_size={VOCAB}"),
    (DIM, VOCAB, "a" * 64, r"packed with vocabulary ffffffffffff, but the model was trained with aaaaaaaaaaaa"),
])
def test_a_store_that_does_not_fit_the_model_is_refused(
    dim: int, vocabulary: int, vocab_hash: str | None, told: str, split: Split
) -> None:
    with pytest.raises(DataError, match=told) as error:
        check_against_model(split, dim, vocabulary, vocab_hash, uses_boxes=True)
    assert "\n" not in str(error.value)


@pytest.fixture
def precomputed(tmp_path: Path) -> Split:
    """Features without boxes, words of a list of fourteen."""
    write_precomputed(tmp_path / "toy", width=DIM)
    vocabulary = write_words(tmp_path / "vocab.json")
    build_imgdb.main(["precomp", str(tmp_path / "toy"), "--split", "train", "--output", str(tmp_path / "img")])
    flags = ["--precomp", str(tmp_path / "toy"), "--split", "train", "--words", str(vocabulary), "--workers", "1"]
    build_txtdb.main([*flags, "--output", str(tmp_path / "toy.db")])
    return open_split("train", data_of((tmp_path / "toy.db", tmp_path / "img")), Solo())


def test_a_store_without_boxes_fits_only_matchers_without(precomputed: Split) -> None:
    check_against_model(precomputed, DIM, 14, None, uses_boxes=False)
    with pytest.raises(DataError, match=r"native_all: holds features without boxes, .*choose another matcher") as error:
        check_against_model(precomputed, DIM, 14, None, uses_boxes=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [13, 15])
def test_a_model_knows_exactly_the_words_of_a_list(precomputed: Split, size: int) -> None:
    with pytest.raises(DataError, match=rf"has 14 entries but the model knows {size}; set matcher\.vocab_size=14"):
        check_against_model(precomputed, DIM, size, None, uses_boxes=False)


def test_captions_must_fit_the_models_positions(index: PairIndex) -> None:
    everything, longest = np.arange(len(index.texts)), int(index.words.max())
    check_lengths(index, everything, longest)
    check_lengths(index, everything, None)
    check_lengths(index, everything[:0], 1)
    short = np.flatnonzero(index.words < longest)
    check_lengths(index, short, longest - 1)
    with pytest.raises(DataError, match=rf"caption \d+ has {longest} ids") as told:
        check_lengths(index, everything, longest - 1)
    named = re.search(r"caption (\d+)", str(told.value))
    assert named is not None
    assert index.words[index.texts.index(named.group(1))] == longest


def test_the_longest_caption_of_a_text_tower_has_512_ids(index: PairIndex) -> None:
    """Nothing is cut: who brings 513 is told which caption it is."""
    index.words[7] = 513
    said = rf"caption {index.texts[7]} has 513 ids, .* takes 512; shorten it or leave it out .*=513$"
    with pytest.raises(DataError, match=said) as told:
        check_lengths(index, np.arange(len(index.texts)), 512, "matcher.text")
    remedy = "or, where the text side starts from nothing, set matcher.text.max_position_embeddings=513"
    assert f"(max_txt_len leaves longer ones out of training), {remedy}" in str(told.value)
    assert "\n" not in str(told.value)


def test_settings_of_a_text_tower_are_looked_for_where_it_has_them(split: Split) -> None:
    class Towers(Named):
        text: str = ""

    assert text_settings(Towers(name="towers")) == "matcher.text"
    assert text_settings(Named(name="plain")) == "matcher"
    with pytest.raises(DataError, match=rf"knows {VOCAB - 1}; set matcher\.text\.vocab_size={VOCAB} where"):
        check_against_model(split, DIM, VOCAB - 1, None, uses_boxes=False, texts="matcher.text")


class Meeting(Solo):
    """Ranks that speak one after the other: the last to share hears all."""

    size = 2

    def __init__(self, rank: int, said: list[Any]) -> None:
        self.rank, self.said = rank, said

    def all_gather_object(self, value: Any) -> list[Any]:
        self.said.append(value)
        return list(self.said)


def test_a_damaged_record_stops_the_run_when_it_is_met(stores: Stores, tmp_path: Path) -> None:
    index = open_split("train", data_of(spoiled(stores, tmp_path)), Solo()).index
    image = index.images.index(IMAGE)
    count = int(index.regions[image])
    with pytest.raises(DamagedRecord, match=f"{IMAGE} is damaged"):
        index.read_images([image], np.empty((count, DIM), np.float16), np.empty((count, 7), np.float32))


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_damaged_images_are_left_out_with_their_captions(policy: str, stores: Stores, tmp_path: Path) -> None:
    sound = open_split("train", data_of(stores), Solo()).index
    split = open_split("train", data_of(spoiled(stores, tmp_path), damaged=policy), Solo())
    assert split.left_out == (IMAGE,)
    lost = len(sound.captions(sound.images.index(IMAGE)))
    assert len(split.index.images) == len(sound.images) - 1
    assert len(split.index.texts) == len(sound.texts) - lost
    names = [split.index.images[at] for at in split.index.owner]
    assert names == [sound.images[at] for at in sound.owner if sound.images[at] != IMAGE]
    write_quarantine([split], tmp_path)
    listed = tmp_path / "quarantine.txt"
    assert listed.exists() == (policy == "quarantine")
    assert policy == "skip" or listed.read_text() == f"{IMAGE}\n"


def test_damaged_captions_are_left_out_alone(stores: Stores, tmp_path: Path) -> None:
    sound = open_split("train", data_of(stores), Solo()).index
    split = open_split("train", data_of(spoiled(stores, tmp_path, "caption"), damaged="skip"), Solo())
    assert split.left_out == (CAPTION,)
    assert split.index.images == sound.images
    assert split.index.texts == [text for text in sound.texts if text != CAPTION]
    names = [split.index.images[at] for at in split.index.owner]
    assert names == [sound.images[at] for at, text in zip(sound.owner, sound.texts, strict=True) if text != CAPTION]
    assert len(split.index.captions(sound.images.index(IMAGE))) == 0


def test_nothing_is_listed_where_nothing_was_left_out(stores: Stores, tmp_path: Path) -> None:
    write_quarantine([open_split("train", data_of(stores, damaged="quarantine"), Solo())], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ranks_share_the_search_and_agree(stores: Stores, tmp_path: Path) -> None:
    sources = open_split("train", data_of(spoiled(stores, tmp_path)), Solo()).index.sources
    said: list[Any] = []
    find_damaged(sources, Meeting(0, said))
    assert find_damaged(sources, Meeting(1, said)) == (IMAGE,)
    assert sorted(map(len, said)) == [0, 1], "each rank reads its own half"
    swapped: list[Any] = []
    find_damaged(sources, Meeting(1, swapped))
    assert find_damaged(sources, Meeting(0, swapped)) == (IMAGE,)


def test_a_split_of_nothing_but_damage_is_refused(stores: Stores) -> None:
    source = open_split("train", data_of(stores), Solo()).index.sources[0]
    everything = SimpleNamespace(rank=0, size=1, progress=Progress(),
                                 all_gather_object=lambda _: [source.texts.image_order])
    with pytest.raises(DataError, match="no caption with its image"):
        PairIndex([source], frozenset(find_damaged([source], everything)))  # type: ignore[arg-type]


# ---------------------------------------------------------------- pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Stores:
    names = [f"{number}.jpg" for number in range(5)]
    write_picture_store(tmp_path / "pictures_only", names)
    return write_pieces(tmp_path / "pieces.db", names), tmp_path / "pictures_only"


def test_pictures_are_opened_as_they_are_to_be_looked_at(pictures: Stores) -> None:
    view = PictureView(6, 0.5, 3)
    split = open_split("train", data_of(pictures), Solo(), pictures=view)
    store = split.index.sources[0].images
    assert isinstance(store, PictureStore)
    assert store.view == view
    assert split.index.row_shape == (3, 6, 6)
    check_against_model(split, 6, len(PIECES), split.vocab_hash, uses_boxes=False)


def test_damaged_pictures_are_left_out(pictures: Stores) -> None:
    records, store = pictures[1] / "pictures" / "data.mdb", PictureView(6).open(pictures[1])
    picture = store.stored("2.jpg").data
    store.close()
    records.write_bytes(records.read_bytes().replace(picture, bytes(len(picture))))
    split = open_split("train", data_of(pictures, damaged="skip"), Solo(), pictures=PictureView(6))
    assert split.left_out == ("2.jpg",)
    assert len(split.index.texts) == 8


def test_a_matcher_of_pictures_is_told_how_to_get_them(stores: Stores) -> None:
    said = r"a_img holds no pictures, but native_.*scripts/build_imgdb\.py pictures"
    with pytest.raises(DataError, match=said) as told:
        open_split("train", data_of(stores), Solo(), pictures=PictureView(6))
    assert "\n" not in str(told.value)


def test_a_matcher_of_regions_is_told_that_there_are_only_pictures(pictures: Stores) -> None:
    told = r"pictures_only holds pictures but the matcher takes region features; name .* \(--matcher laps\)"
    with pytest.raises(DataError, match=told) as error:
        open_split("train", data_of(pictures), Solo())
    assert "\n" not in str(error.value)
