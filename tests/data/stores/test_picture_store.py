"""Picture stores: what goes in comes out, seen whole or in part, by threads, forks and copies; damage is named."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import pytest
from PIL import Image

from config.errors import DataError
from data.draws import generator
from data.records.codec import DamagedRecord
from data.records.pixels import crop_square, decode, draw_crop, resize_whole
from data.stores.image_source import ImageSource
from data.stores.image_writer import ImageWriter
from data.stores.picture_store import PictureStore, PictureView, PictureWriter, encode_picture
from tests.arrays import extracted
from tests.drawn import drawn, encoded, write_picture_store

NAMES = [f"p{number}.npz" for number in range(5)]
SIDE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_picture_store(tmp_path / "train", NAMES)
    return tmp_path / "train"


def read(store: PictureStore, name: str, key: int | None = None) -> np.ndarray:
    pixels, boxes = np.full((1, *store.row_shape), 7, np.uint8), np.ones((1, 7), np.float32)
    store.read_into(name, pixels, boxes, key)
    assert not boxes.any()
    return pixels[0]


def change(folder: Path, name: str, record: bytes | None = None) -> None:
    """Put another record, or turn a bit in the middle of the old one."""
    path = str(folder / "pictures")
    with lmdb.open(path, map_size=1 << 26) as environment, environment.begin(write=True) as writer:
        turned = bytearray(writer.get(name.encode()))
        turned[len(turned) // 2] ^= 1
        writer.put(name.encode(), bytes(turned) if record is None else record)
    (folder / "pictures" / "seal.json").unlink(missing_ok=True)


# ---------------------------------------------------------------- reading


def test_what_a_store_says_of_itself(folder: Path) -> None:
    store = PictureView(SIDE).open(folder)
    assert store.names == NAMES
    assert (store.dim, store.row_shape, store.dtype, store.has_boxes) == (16, (3, 16, 16), np.uint8, False)
    assert (store.folder, store.path) == (folder, folder / "pictures")
    assert {name: store.meta[name] for name in ("kind", "codec", "version", "count")} == {
        "kind": "pictures", "codec": "jpeg", "version": 1, "count": 5,
    }  # fmt: skip
    assert store.meta["pillow"]
    source: ImageSource = store
    assert source.counts(NAMES[1:3]).tolist() == source.index_counts(NAMES[1:3]).tolist() == [1, 1]
    with pytest.raises(DataError, match=r"pictures holds no 'p9\.npz'; near: "):
        store.counts(["p1.npz", "p9.npz"])


def test_bytes_are_kept_as_they_were(tmp_path: Path) -> None:
    files = write_picture_store(tmp_path, NAMES, width=30, height=50)
    store = PictureView(SIDE).open(tmp_path)
    assert [store.stored(name) for name in NAMES] == [(file, 50, 30) for file in files]


def test_whole_pictures_are_read(folder: Path) -> None:
    store = PictureView(SIDE).open(folder)
    for number, name in enumerate(NAMES):
        assert np.array_equal(read(store, name), resize_whole(decode(encoded(drawn(number))), SIDE))
        assert np.array_equal(read(store, name, key=3), read(store, name))


def test_parts_depend_on_their_key_alone(folder: Path) -> None:
    store, picture = PictureView(SIDE, smallest_crop=0.4).open(folder), decode(encoded(drawn(2)))
    for key in range(5):
        crop = draw_crop(60, 40, generator(key, "crop"), 0.4)
        assert np.array_equal(read(store, NAMES[2], key), crop_square(picture, crop, SIDE))
    assert not np.array_equal(read(store, NAMES[2], 0), read(store, NAMES[2], 1))
    assert np.array_equal(read(store, NAMES[2]), resize_whole(picture, SIDE)), (
        "taken whole where nothing is to be drawn"
    )


def test_whole_pictures_are_decoded_once_as_far_as_there_is_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    plain = PictureStore.picture
    monkeypatch.setattr(PictureStore, "picture", lambda store, name: decoded.append(name) or plain(store, name))
    side = 400  # 480,000 bytes a picture, two in a mebibyte
    store = PictureView(side, cache_mb=1).open(folder)
    first = [read(store, name) for name in NAMES]
    again = [read(store, name) for name in NAMES]
    assert decoded == [*NAMES, *NAMES[2:]]
    assert all(map(np.array_equal, first, again))
    again[0][...] = 0
    assert np.array_equal(read(store, NAMES[0]), first[0])
    for other in (PictureView(side).open(folder), PictureView(side, 0.5, 1).open(folder)):
        decoded.clear()
        for _ in range(2):
            read(other, NAMES[0], key=1)
        assert decoded == NAMES[:1] * 2


def test_threads_read_at_once(folder: Path) -> None:
    store = PictureView(SIDE, cache_mb=1).open(folder)
    expected = {name: read(PictureView(SIDE).open(folder), name) for name in NAMES}
    with ThreadPoolExecutor(8) as pool:
        names = NAMES * 60
        for name, pixels in zip(names, pool.map(lambda name: read(store, name), names), strict=True):
            assert np.array_equal(pixels, expected[name])


def test_copies_and_forks_read_the_same(folder: Path) -> None:
    store = PictureView(SIDE, 0.5, 3).open(folder)
    expected = read(store, NAMES[1], key=9)
    copied = pickle.loads(pickle.dumps(store))
    assert copied.view == PictureView(SIDE, 0.5, 3)
    assert np.array_equal(read(copied, NAMES[1], key=9), expected)
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: send.send(read(store, NAMES[1], 9)))
    child.start()
    assert receive.poll(20)
    assert np.array_equal(receive.recv(), expected)
    child.join()
    store.close()
    assert np.array_equal(read(store, NAMES[1], key=9), expected)


@pytest.mark.parametrize(("side", "smallest"), [(0, 0.0), (8, -0.1), (8, 1.1)])
def test_views_out_of_range_are_refused(folder: Path, side: int, smallest: float) -> None:
    with pytest.raises(ValueError, match="give at least 1, and a share of 1"):
        PictureView(side, smallest).open(folder)


# ---------------------------------------------------------------- damage


def test_turned_bits_are_found_at_the_first_read(folder: Path) -> None:
    change(folder, NAMES[3])
    store = PictureView(SIDE).open(folder)
    with pytest.raises(DamagedRecord, match=r"pictures: record p3\.npz is damaged \(its checksum does not match"):
        read(store, NAMES[3])
    assert [name for name, _ in store.damaged(NAMES)] == [NAMES[3]]


def test_a_checksum_is_compared_once_a_process(folder: Path) -> None:
    store = PictureView(SIDE).open(folder)
    before = read(store, NAMES[3])
    record = msgpack.unpackb(bytes(store._store.get(NAMES[3])))
    store.close()
    change(folder, NAMES[3], msgpack.packb({**record, "crc": 1}))
    assert np.array_equal(read(store, NAMES[3]), before)
    with pytest.raises(DamagedRecord):
        read(PictureView(SIDE).open(folder), NAMES[3])


def test_pictures_that_cannot_be_decoded_are_named(folder: Path) -> None:
    cut = encoded(drawn(0, 200, 150))[:-500]
    change(folder, NAMES[0], msgpack.packb({"jpeg": cut, "h": 150, "w": 200}))
    change(folder, NAMES[1], msgpack.packb({"jpeg": b"", "h": 150, "w": 200, "crc": 0}))
    store = PictureView(SIDE).open(folder)
    for name, said in ((NAMES[0], "cannot be read as a picture"), (NAMES[1], r"is empty \(0 bytes\)")):
        with pytest.raises(DamagedRecord, match=rf"record {name} is damaged \({said}"):
            read(store, name)
    assert [name for name, _ in store.damaged(NAMES)] == NAMES[:1], "one with a checksum was decoded by its packer"
    assert [name for name, _ in store.damaged(NAMES, decoded=True)] == NAMES[:2]
    assert store.damaged(["absent"])[0][1].startswith(f"{folder / 'pictures'} holds no 'absent'")


def test_others_records_need_no_checksum(folder: Path) -> None:
    jpeg = encoded(drawn(8))
    change(folder, NAMES[0], msgpack.packb({"w": 60, "jpeg": jpeg, "h": 40, "features": [1, 2]}))
    store = PictureView(SIDE).open(folder)
    assert np.array_equal(read(store, NAMES[0]), resize_whole(decode(jpeg), SIDE))
    assert store.damaged(NAMES) == []


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no pictures: it is an empty folder; check .*build_imgdb\.py pictures$"):
        PictureView(SIDE).open(tmp_path)
    with ImageWriter(tmp_path) as writer:
        writer.add("a.npz", **extracted(0))
    with pytest.raises(DataError, match=r"holds no pictures, but native_th0\.2_max100_min10; "):
        PictureView(SIDE).open(tmp_path)


# ---------------------------------------------------------------- packing


def test_the_size_is_that_of_the_picture_as_it_is_shown() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    record = msgpack.unpackb(encode_picture(encoded(drawn(0), exif=exif)))
    assert (record["h"], record["w"]) == (60, 40)
    assert record["jpeg"] == encoded(drawn(0), exif=exif)
    turned = msgpack.unpackb(encode_picture(encoded(drawn(0), exif=exif), short_side=10))
    assert (turned["h"], turned["w"]) == (15, 10)
    assert decode(turned["jpeg"]).size == (10, 15)


@pytest.mark.parametrize(("short_side", "changed"), [(None, False), (41, False), (40, False), (39, True)])
def test_only_larger_pictures_are_encoded_again(short_side: int | None, changed: bool) -> None:
    data = encoded(drawn(0), "PNG")
    record = msgpack.unpackb(encode_picture(data, short_side))
    assert (record["jpeg"] != data) is changed
    assert min(record["h"], record["w"]) == (39 if changed else 40)
    with pytest.raises(DataError, match="is empty"):
        encode_picture(b"", short_side)


def test_complete_or_absent_and_taken_up_again(tmp_path: Path) -> None:
    records = {name: encode_picture(encoded(drawn(number))) for number, name in enumerate(NAMES)}

    def broken_off() -> None:
        with PictureWriter(tmp_path, {"short_side": None}) as writer:
            for name in reversed(NAMES[2:]):
                writer.put(name, records[name])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    with pytest.raises(DataError, match="holds no pictures"):
        PictureView(SIDE).open(tmp_path)
    with pytest.raises(DataError, match="was begun with another short_side; remove it or use the same"):
        PictureWriter(tmp_path, {"short_side": 9})
    with PictureWriter(tmp_path, {"short_side": None}) as writer:
        assert writer.done() == set(NAMES[2:])
        for name in NAMES[:2]:
            writer.put(name, records[name])
    assert writer.path == tmp_path / "pictures"
    assert PictureView(SIDE).open(tmp_path).names == NAMES
    assert sorted(path.name for path in writer.path.iterdir()) == ["data.mdb", "meta.json", "seal.json"]
    assert json.loads((writer.path / "meta.json").read_text())["short_side"] is None
    with pytest.raises(DataError, match="exists; remove it"):
        PictureWriter(tmp_path)
