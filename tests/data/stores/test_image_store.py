"""Image stores in every layout give the same images; errors name what is wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import pytest

from config.errors import DataError
from data.records.codec import DamagedRecord, encode_npz, encode_published
from data.records.native_record import encode_native
from data.records.regions import Codec, RegionRule, box_features
from data.stores.image_store import ImageStore
from data.stores.image_writer import ImageWriter
from data.stores.lmdb_writer import LmdbWriter
from tests.arrays import FLICKR, extracted, write_image_store

RULE = RegionRule(conf_th=0.5, max_bb=9, min_bb=3)
LAYOUTS: tuple[Codec, ...] = ("native", "published", "compressed")


def rule_for(codec: Codec) -> RegionRule:
    return RegionRule(RULE.conf_th, RULE.max_bb, RULE.min_bb, compressed=codec == "compressed")


def open_store(folder: Path, codec: Codec) -> ImageStore:
    return ImageStore(folder, rule_for(codec), codec=codec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All three layouts of one split."""
    for codec in LAYOUTS:
        write_image_store(tmp_path / "img", codec, RULE)
    return tmp_path / "img"


def change(folder: Path, key: str, value: bytes) -> None:
    """Overwrite a record of a finished store, as one who does not seal it."""
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as writer:
        writer.put(key.encode(), value)
    (folder / "lock.mdb").unlink()
    (folder / "seal.json").unlink(missing_ok=True)


@pytest.mark.parametrize("codec", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_reads_into_the_callers_arrays(folder: Path, codec: Codec, dtype: type) -> None:
    store = open_store(folder, codec)
    for number, name in enumerate(store.names):
        image = extracted(number)
        count = int(min(store.counts([name])[0], 12))
        assert count == min(9, max(3, int((image["conf"] > np.float16(0.5)).sum())))
        features, boxes = np.full((count + 2, 8), 7, dtype), np.full((count + 2, 7), 7, np.float32)
        store.read_into(name, features[1:-1], boxes[1:-1])
        assert np.array_equal(features[1:-1], image["features"][:count].astype(dtype))
        assert np.array_equal(boxes[1:-1], box_features(image["norm_bb"][:count]))
        assert (features[[0, -1]] == 7).all()
        assert (boxes[[0, -1]] == 7).all()


@pytest.mark.parametrize("codec", LAYOUTS)
def test_a_store_is_found_from_where_one_is(folder: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_store(folder, codec)
    monkeypatch.chdir(folder.parent)
    store = open_store(Path(folder.name), codec)
    assert store.counts(store.names).tolist() == expected.counts(expected.names).tolist()
    assert np.array_equal(store.read(store.names[0]).features, expected.read(expected.names[0]).features)


@pytest.mark.parametrize("codec", LAYOUTS)
def test_reads_copies(folder: Path, codec: Codec) -> None:
    store = open_store(folder, codec)
    image = store.read(store.names[0])
    assert image.features.dtype == np.float16
    assert image.features.flags.owndata
    assert np.array_equal(image.features, extracted(0)["features"][: len(image.features)])
    assert image.boxes.shape == (len(image.features), 7)


@pytest.mark.parametrize("codec", LAYOUTS)
def test_describes_itself(folder: Path, codec: Codec) -> None:
    store = open_store(folder, codec)
    assert store.names == [FLICKR.format(number) for number in range(6)]
    assert store.dim == 8
    assert store.meta["codec"] == codec
    assert store.meta["count"] == 6


@pytest.fixture(params=["float16", "float32"])
def boxless(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    """Six images of features alone, with bits that half precision does not hold."""
    with ImageWriter(tmp_path / "img", keep_all=True, features_only=request.param) as writer:
        for number in range(6):
            writer.add_features(FLICKR.format(number), extracted(number, dtype=np.float32)["features"])
    store = ImageStore(tmp_path / "img")
    assert store.dtype == np.dtype(request.param)
    return store


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_alone_are_read_with_boxes_of_zeros(boxless: ImageStore, dtype: type) -> None:
    assert not boxless.has_boxes
    assert boxless.counts(boxless.names).tolist() == [12] * 6
    for number, name in enumerate(boxless.names):
        features, boxes = np.full((14, 8), 7, dtype), np.full((14, 7), 7, np.float32)
        boxless.read_into(name, features[1:-1], boxes[1:-1])
        stored = extracted(number, dtype=np.float32)["features"].astype(boxless.dtype)
        assert np.array_equal(features[1:-1], stored.astype(dtype))
        assert (boxes[1:-1] == 0).all()
        assert (boxes[[0, -1]] == 7).all()


def test_single_floats_are_kept_to_the_bit(boxless: ImageStore) -> None:
    image = boxless.read(boxless.names[2])
    assert image.features.dtype == boxless.dtype
    exact = np.array_equal(image.features, extracted(2, dtype=np.float32)["features"])
    assert exact == (boxless.dtype == np.float32)


def test_damaged_features_alone_are_found(boxless: ImageStore) -> None:
    flipped = bytearray(encode_native(np.ones((12, 8)), None, np.ones(12)))
    flipped[100] ^= 1
    change(boxless.path, FLICKR.format(1), bytes(flipped))
    change(boxless.path, FLICKR.format(2), encode_native(np.full((12, 8), np.nan), None, np.ones(12)))
    found = dict(boxless.damaged(boxless.names))
    assert list(found) == boxless.names[1:3]
    assert "checksum" in found[boxless.names[1]]
    assert found[boxless.names[2]] == "holds numbers that are not finite"


@pytest.mark.parametrize("codec", LAYOUTS)
def test_other_stores_have_boxes_and_half_floats(folder: Path, codec: Codec) -> None:
    """Also those packed before there were others, or by others: they say nothing of it."""
    store = open_store(folder, codec)
    (store.path / "meta.json").unlink()
    (store.path / "seal.json").unlink()
    assert store.has_boxes
    assert store.dtype == np.float16


def test_an_unknown_type_is_refused(folder: Path) -> None:
    store = open_store(folder, "native")
    (store.path / "meta.json").write_text('{"dtype": "object"}')
    (store.path / "seal.json").unlink()
    with pytest.raises(DataError, match=r"meta\.json: dtype object is none of float16, float32"):
        _ = store.dtype


def test_fewer_regions_than_counted_may_be_asked_for(folder: Path) -> None:
    store = open_store(folder, "native")
    features, boxes = np.empty((2, 8), np.float16), np.empty((2, 7), np.float32)
    store.read_into(store.names[0], features, boxes)
    assert np.array_equal(features, extracted(0)["features"][:2])


@pytest.mark.parametrize("codec", LAYOUTS)
def test_more_regions_than_stored_are_refused(folder: Path, codec: Codec) -> None:
    store = open_store(folder, codec)
    with pytest.raises(DataError, match="regions, 40 were asked for"):
        store.read_into(store.names[0], np.empty((40, 8), np.float16), np.empty((40, 7), np.float32))


@pytest.mark.parametrize("codec", ["published", "compressed"])
def test_index_may_exceed_the_rows_that_reading_returns(tmp_path: Path, codec: Codec) -> None:
    rule = RegionRule(min_bb=10, compressed=codec == "compressed")
    names = write_image_store(tmp_path / "img", codec, rule, rows=4)
    store = ImageStore(tmp_path / "img", rule)
    assert store.index_counts(names).tolist() == [10] * 6
    assert store.counts(names).tolist() == [4] * 6
    assert len(store.read(names[0]).features) == 4


@pytest.mark.parametrize("codec", LAYOUTS)
def test_fixed_numbers_are_cut_by_the_reader(tmp_path: Path, codec: Codec) -> None:
    rule = RegionRule(conf_th=-1, num_bb=5, compressed=codec == "compressed")
    names = write_image_store(tmp_path / "img", codec, rule, rows=7)
    store = ImageStore(tmp_path / "img", rule)
    assert store.counts(names).tolist() == [5] * 6
    with pytest.raises(DataError, match=r"holds no 'other\.npz'"):
        store.counts(["other.npz"])


@pytest.mark.parametrize("codec", LAYOUTS)
def test_fixed_numbers_do_not_exceed_the_rows_stored(tmp_path: Path, codec: Codec) -> None:
    rule = RegionRule(conf_th=-1, num_bb=50, compressed=codec == "compressed")
    names = write_image_store(tmp_path / "img", codec, rule, rows=7)
    store = ImageStore(tmp_path / "img", rule)
    assert store.counts(names).tolist() == [7] * 6
    assert store.read(names[0]).features.shape == (7, 8)


@pytest.mark.parametrize("codec", LAYOUTS)
def test_counts_are_computed_where_no_file_states_them(tmp_path: Path, codec: Codec) -> None:
    with ImageWriter(tmp_path, codec, keep_all=True) as writer:
        for number in range(4):
            writer.add(FLICKR.format(number), **extracted(number))
    for path in (*tmp_path.rglob("nbb*.json"), *tmp_path.rglob("seal.json")):
        path.unlink()
    store = ImageStore(tmp_path, rule_for(codec))
    expected = [int(RULE.count(extracted(number)["conf"])) for number in range(4)]
    assert store.counts(store.names).tolist() == expected


def test_old_archives_with_an_extra_scalar_are_read(tmp_path: Path) -> None:
    image = extracted(0)
    with LmdbWriter(tmp_path / "all_compressed") as writer:
        writer.put("a.npz", encode_npz({**image, "allow_pickle": np.array(True)}))
        writer.put("__keys__", b'["a.npz"]')
    store = ImageStore(tmp_path, rule_for("compressed"))
    assert store.damaged(["a.npz"]) == []
    assert np.array_equal(store.read("a.npz").features, image["features"][: store.counts(["a.npz"])[0]])


def test_single_precision_records_are_read(tmp_path: Path) -> None:
    image = extracted(0, dtype=np.float32)
    with LmdbWriter(tmp_path / "all") as writer:
        writer.put("a.npz", encode_published(image))
        writer.put("__keys__", b'["a.npz"]')
    features, boxes = np.empty((3, 8), np.float16), np.empty((3, 7), np.float32)
    ImageStore(tmp_path, RULE).read_into("a.npz", features, boxes)
    assert np.array_equal(features, image["features"][:3].astype(np.float16))


def test_missing_image_names_store_and_near_keys(folder: Path) -> None:
    store = open_store(folder, "native")
    for ask in (store.counts, store.index_counts, lambda names: store.read(names[0])):
        with pytest.raises(DataError, match=r"native_th0\.5_max9_min3 holds no 'flickr30k_7\.npz'; near: flickr30k"):
            ask(["flickr30k_7.npz"])


# ---------------------------------------------------------------- damage


def flipped(folder: Path, codec: Codec, key: str, at: int) -> None:
    store = open_store(folder, codec)
    record = bytearray(store._store.get(key))
    path = store.path
    store.close()
    record[at] ^= 1
    change(path, key, bytes(record))


def test_damage_is_found_at_the_first_read_and_named(folder: Path) -> None:
    name = FLICKR.format(2)
    flipped(folder, "native", name, 100)
    store = open_store(folder, "native")
    count = store.counts([name])[0]
    with pytest.raises(DamagedRecord, match=rf"native_th0\.5_max9_min3: record {name} is damaged .*checksum"):
        store.read_into(name, np.empty((count, 8), np.float16), np.empty((count, 7), np.float32))
    assert [key for key, _ in store.damaged(store.names)] == [name]


def test_checksums_can_be_left_unread(folder: Path) -> None:
    name = FLICKR.format(2)
    flipped(folder, "native", name, 100)
    ImageStore(folder, RULE, verify="never").read(name)


def test_first_checks_each_record_once_and_always_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bool] = []
    first, always = ImageStore(folder, RULE), ImageStore(folder, RULE, verify="always")
    view = first._view
    for store in (first, always):
        monkeypatch.setattr(store, "_view", lambda buffer, verify: checked.append(verify) or view(buffer, verify))
    for store, expected in ((first, 1), (always, 3)):
        checked.clear()
        for _ in range(3):
            store.read_into(store.names[0], np.empty((3, 8), np.float16), np.empty((3, 7), np.float32))
        assert sum(checked) == expected


@pytest.mark.parametrize("codec", LAYOUTS)
def test_every_kind_of_damage_is_listed(folder: Path, codec: Codec) -> None:
    store = open_store(folder, codec)
    path, names = store.path, store.names
    good = bytes(store._store.get(names[0]))
    store.close()
    change(path, names[1], good[: len(good) // 2])
    change(path, names[2], b"")
    change(path, names[3], msgpack.packb({"features": [1, 2, 3]}))
    change(path, names[4], good + b"\0" * 9 if codec != "compressed" else good[:-9])
    found = open_store(folder, codec).damaged([*names, "other.npz"])
    assert [name for name, _ in found] == [*names[1:5], "other.npz"]
    assert all(reason for _, reason in found)


@pytest.mark.parametrize(
    "wrong", [{"norm_bb": np.zeros((12, 5))}, {"norm_bb": np.zeros((3, 6))}, {"features": np.zeros(9)}]
)
def test_arrays_that_do_not_fit_are_damage(tmp_path: Path, wrong: dict[str, np.ndarray]) -> None:
    with LmdbWriter(tmp_path / "all") as writer:
        writer.put("a.npz", encode_published({**extracted(0), **wrong}))
        writer.put("__keys__", b'["a.npz"]')
    with pytest.raises(DamagedRecord, match="do not agree"):
        ImageStore(tmp_path, RULE).read("a.npz")


def test_numbers_that_are_not_finite_are_listed(tmp_path: Path) -> None:
    image = extracted(0)
    image["features"][1, 2] = np.nan
    with LmdbWriter(tmp_path / "all") as writer:
        writer.put("a.npz", encode_published(image))
        writer.put("__keys__", b'["a.npz"]')
    assert ImageStore(tmp_path, RULE).damaged(["a.npz"]) == [("a.npz", "holds numbers that are not finite")]


def test_an_image_without_regions_is_refused(tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "all") as writer:
        writer.put("a.npz", encode_published(extracted(0, rows=0)))
    with pytest.raises(DataError, match=r"a\.npz has no region"):
        ImageStore(tmp_path, RULE).counts(["a.npz"])


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize("codec", LAYOUTS)
def test_stores_survive_forks_and_pickling(folder: Path, codec: Codec) -> None:
    store = open_store(folder, codec)
    expected = store.read(store.names[1]).features
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(store.read(store.names[1]).features, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.read(store.names[1]).features, expected)


def test_reading_creates_no_file(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    for codec in LAYOUTS:
        open_store(folder, codec).read(FLICKR.format(0))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("codec", ["published", "compressed"])
def test_boxes_in_pixels_that_others_packed_are_told(tmp_path: Path, codec: Codec) -> None:
    """In the picture's shares they would all be far outside of it, and nothing learned from them."""
    first, second = write_image_store(tmp_path, codec, RULE, images=2)
    store = open_store(tmp_path, codec)
    arrays = {name: array[:3] for name, array in extracted(0).items()}
    arrays["norm_bb"] = arrays["norm_bb"] * np.float16(500)
    encode = encode_published if codec == "published" else encode_npz
    change(store.path, first, encode(arrays))
    (store.path / "checksums.json").unlink(missing_ok=True)
    store = open_store(tmp_path, codec)
    told = rf"{first} has boxes from [\d.]+ to [\d.]+, not shares of .*; pack it again with build_imgdb\.py npz --pixel"
    with pytest.raises(DataError, match=told):
        store.read(first)
    assert [name for name, _ in store.damaged([first, second])] == [first]
    assert store.read(second).boxes.max() <= 1


@pytest.mark.parametrize(("content", "told"), [
    ("[]", r"nbb_th0\.5_max9_min3\.json is no JSON object with a whole number for each name"),
    ('{"a": "x"}', r"a whole number for each name, but 1 have none: 'a' has 'x'"),
    ("{}", r"nbb_th0\.5_max9_min3\.json has no count of flickr30k_000000000000\.npz, which is in the store"),
])  # fmt: skip
def test_counts_that_are_none_are_told(tmp_path: Path, content: str, told: str) -> None:
    name, *_ = write_image_store(tmp_path, "published", RULE)
    store = open_store(tmp_path, "published")
    (store.path / "seal.json").unlink()
    (tmp_path / "nbb_th0.5_max9_min3.json").write_text(content)
    with pytest.raises(DataError, match=told):
        store.read(name)
