"""Packing: what is stored, what is noted, and what a killed packing leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest

from config.errors import ConfigError, DataError
from data.records.regions import Codec, RegionRule
from data.stores.image_store import ImageStore
from data.stores.image_writer import ImageWriter
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter
from tests.arrays import FLICKR, extracted, write_image_store

LAYOUTS: tuple[Codec, ...] = ("native", "published", "compressed")
RULE = RegionRule(conf_th=0.5, max_bb=9, min_bb=3)


def contents(folder: Path) -> dict[str, bytes]:
    store = LmdbStore(folder)
    return {key: bytes(store.get(key)) for key in store}


def test_published_stores_have_the_published_files(tmp_path: Path) -> None:
    names = write_image_store(tmp_path, "published", RULE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "feat_th0.5_max9_min3", "nbb_th0.5_max9_min3.json",
    ]  # fmt: skip
    noted = json.loads((tmp_path / "nbb_th0.5_max9_min3.json").read_text())
    assert noted == {name: int(RULE.count(extracted(number)["conf"])) for number, name in enumerate(names)}
    stored = contents(tmp_path / "feat_th0.5_max9_min3")
    assert json.loads(stored.pop("__keys__")) == names
    for number, name in enumerate(names):
        theirs = msgpack.unpackb(stored[name], object_hook=msgpack_numpy.decode)
        assert theirs.keys() == extracted(number).keys()
        assert all(np.array_equal(theirs[key], array[: noted[name]]) for key, array in extracted(number).items())


def test_native_stores_keep_everything_inside(tmp_path: Path) -> None:
    write_image_store(tmp_path, "native", RULE, rows=2)
    assert [path.name for path in tmp_path.iterdir()] == ["native_th0.5_max9_min3"]
    inside = tmp_path / "native_th0.5_max9_min3"
    assert sorted(path.name for path in inside.iterdir()) == [
        "data.mdb", "meta.json", "nbb_th0.5_max9_min3.json", "seal.json",
    ]  # fmt: skip
    assert set(json.loads((inside / "nbb_th0.5_max9_min3.json").read_text()).values()) == {2}


def test_meta_describes_the_store(tmp_path: Path) -> None:
    with ImageWriter(tmp_path, rule=RULE, meta={"features": "scenes"}) as writer:
        writer.add("a.npz", **extracted(0))
    meta = ImageStore(tmp_path, RULE).meta
    assert {name: meta[name] for name in ("kind", "dim", "count", "codec", "version", "features")} == {
        "kind": "images", "dim": 8, "count": 1, "codec": "native", "version": 1, "features": "scenes",
    }  # fmt: skip
    assert meta["rule"]["conf_th"] == 0.5


def test_an_image_s_own_number_of_boxes(tmp_path: Path) -> None:
    image = extracted(0)
    del image["soft_labels"]
    with ImageWriter(tmp_path, "published", keep_all=True) as writer:
        writer.add("a.npz", **image, nbb=4)
        writer.add("b.npz", **image)
    assert json.loads((tmp_path / "nbb.json").read_text()) == {"a.npz": 4, "b.npz": 12}
    assert len(ImageStore(tmp_path, RULE).read("a.npz").features) == 4


@pytest.mark.parametrize("codec", LAYOUTS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm_bb": np.zeros((3, 6))}, "do not agree"),
        ({"conf": np.zeros(3)}, "do not agree"),
        ({"features": np.full((12, 8), np.nan)}, "not finite"),
        ({"features": np.full((12, 8), 1e6)}, "not finite in half precision"),
        ({name: array[:0] for name, array in extracted(0).items()}, "no region"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, codec: Codec, wrong: dict[str, np.ndarray], message: str
) -> None:
    with ImageWriter(tmp_path, codec) as writer:
        writer.add("good.npz", **extracted(1))
        with pytest.raises(DataError, match=rf"bad\.npz: .*{message}"):
            writer.add("bad.npz", **{**extracted(0), **wrong})
    assert len(LmdbStore(writer.path)) == 2


def test_one_feature_width_a_store(tmp_path: Path) -> None:
    with ImageWriter(tmp_path) as writer:
        writer.add("a.npz", **extracted(0, width=8))
        with pytest.raises(DataError, match=r"b\.npz: features are 9 wide, 8 before"):
            writer.add("b.npz", **extracted(0, width=9))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_may_be_stored_alone(tmp_path: Path, dtype: str) -> None:
    features = extracted(0, rows=4, dtype=np.float32)["features"]
    with ImageWriter(tmp_path, keep_all=True, features_only=dtype) as writer:
        writer.add_features("a.npz", features)
    assert json.loads((writer.path / "nbb.json").read_text()) == {"a.npz": 4}
    store = ImageStore(tmp_path)
    assert (store.meta["has_boxes"], store.meta["dtype"]) == (False, dtype)
    assert np.array_equal(store.read("a.npz").features, features.astype(dtype))


@pytest.mark.parametrize(
    ("features", "dtype", "message"),
    [
        (np.full((2, 8), np.nan), "float16", "holds numbers that are not finite$"),
        (np.array([[1.0] * 8, [np.inf] * 8]), "float32", "holds numbers that are not finite$"),
        (np.full((2, 8), 1e6), "float16", "holds numbers too large for float16; keep float32"),
        (np.zeros((0, 8)), "float16", r"features \[0, 8\] are no rows of features"),
        (np.zeros(8), "float16", r"features \[8\] are no rows of features"),
    ],
)
def test_features_that_cannot_be_stored_are_named(
    tmp_path: Path, features: np.ndarray, dtype: str, message: str
) -> None:
    with ImageWriter(tmp_path, keep_all=True, features_only=dtype) as writer:
        writer.add_features("good.npz", np.ones((2, 8)))
        with pytest.raises(DataError, match=rf"bad\.npz: {message}"):
            writer.add_features("bad.npz", features)
    assert len(LmdbStore(writer.path)) == 2


def test_features_alone_need_the_native_layout(tmp_path: Path) -> None:
    for codec in LAYOUTS[1:]:
        with pytest.raises(ConfigError, match=f"the {codec} layout holds features with boxes; use the native one"):
            ImageWriter(tmp_path, codec, features_only="float16")
    assert not list(tmp_path.iterdir())


def test_a_packing_goes_on_with_the_type_it_began_with(tmp_path: Path) -> None:
    def stopped() -> None:
        with ImageWriter(tmp_path, keep_all=True, features_only="float16") as writer:
            writer.add_features("a.npz", np.zeros((1, 8)))
            writer.add_features("b.npz", np.zeros((0, 8)))

    with pytest.raises(DataError, match="no rows"):
        stopped()
    with pytest.raises(DataError, match="was begun with another dtype"):
        ImageWriter(tmp_path, keep_all=True, features_only="float32")
    with pytest.raises(DataError, match="was begun with another has_boxes"):
        ImageWriter(tmp_path, keep_all=True)


def fill(folder: Path, codec: Codec) -> Iterator[int]:
    """Pack forty images that are not yet packed; yields before each."""
    with ImageWriter(folder, codec, RULE) as writer:
        writer._writer._commit_every = 10
        for number in range(40):
            yield number
            if FLICKR.format(number) not in writer.done():
                writer.add(FLICKR.format(number), **extracted(number, rows=4))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data.stores.test_image_writer import fill
for number in fill(Path(sys.argv[1]), sys.argv[2]):
    if number == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("codec", "stop"), [("native", 25), ("published", 39)])
def test_killed_and_started_again_gives_the_same_store(tmp_path: Path, codec: Codec, stop: int) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED, str(broken), codec, str(stop)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == -signal.SIGKILL
    assert [path.suffix for path in broken.iterdir()] == [".partial"]
    for folder in (broken, whole):
        assert list(fill(folder, codec)) == list(range(40))
    files = sorted(path.relative_to(whole) for path in whole.rglob("*"))
    assert sorted(path.relative_to(broken) for path in broken.rglob("*")) == files
    for name in files:
        if name.suffix == ".json" and name.name != "seal.json":  # which speaks of pages, not of what they hold
            assert (whole / name).read_text() == (broken / name).read_text()
        if name.name == "data.mdb":
            assert contents((whole / name).parent) == contents((broken / name).parent)


def interrupted(folder: Path, **options: Any) -> None:
    """One image of a packing that fails."""
    with ImageWriter(folder, **options) as writer:
        writer.add("a.npz", **extracted(0))
        raise RuntimeError


def test_started_again_after_the_last_image_still_knows_the_width(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        interrupted(tmp_path)
    with ImageWriter(tmp_path) as again, pytest.raises(DataError, match="9 wide, 8 before"):
        again.add("b.npz", **extracted(0, width=9))
    assert ImageStore(tmp_path).meta["dim"] == 8


def test_work_begun_with_other_options_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        interrupted(tmp_path, meta={"features": "scenes"})
    with pytest.raises(DataError, match="begun with another features"):
        ImageWriter(tmp_path, meta={"features": "other"})
    with ImageWriter(tmp_path, meta={"features": "scenes"}) as again:
        assert again.done() == {"a.npz"}


def test_killed_just_before_it_is_renamed_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LmdbWriter, "finish", lambda writer, beside: writer.release())
    with pytest.raises(FileNotFoundError), ImageWriter(tmp_path) as writer:
        writer.add("a.npz", **extracted(0))
    monkeypatch.undo()
    with ImageWriter(tmp_path) as again:
        assert again.done() == {"a.npz"}
    assert ImageStore(tmp_path).names == ["a.npz"]


def test_counts_of_records_that_were_not_committed_are_dropped(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        interrupted(tmp_path)
    with (tmp_path / "native_th0.2_max100_min10.partial" / "counts.jsonl").open("a") as journal:
        journal.write('["b.npz", 10, 8]\n["c.np')
    with ImageWriter(tmp_path) as again:
        assert again.done() == {"a.npz"}
        again.add(FLICKR.format(1), **extracted(1))
    assert ImageStore(tmp_path).names == ["a.npz", FLICKR.format(1)]


def test_boxes_a_little_outside_of_their_picture_are_stored(tmp_path: Path) -> None:
    arrays = extracted(0)
    arrays["norm_bb"][0] = -0.02, 0, 1.03, 1, 1.05, 1
    with ImageWriter(tmp_path, keep_all=True) as writer:
        writer.add("a.npz", **arrays)
    assert np.array_equal(ImageStore(tmp_path).read("a.npz").boxes[0, :6], arrays["norm_bb"][0])


def test_no_image_has_the_name_of_the_list(tmp_path: Path) -> None:
    with ImageWriter(tmp_path) as writer:
        with pytest.raises(DataError, match="__keys__ is what a store calls the list of its images; rename"):
            writer.add("__keys__", **extracted(0))
        writer.add("a.npz", **extracted(0))
    assert ImageStore(tmp_path).names == ["a.npz"]


