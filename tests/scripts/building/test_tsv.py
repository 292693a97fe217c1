"""scripts/build_imgdb.py tsv: packed, taken up after a kill, read back, odd rows left out by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from data.records.regions import RegionRule
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from scripts.build_imgdb import main
from tests.data.source.test_region_tsv import BOXES, FEATURES, SHARES, b64, bottom_up, predicted, row, vinvl, written


def pack(path: Path, *flags: str, output: str = "img") -> Path:
    assert main(["tsv", str(path), "--output", str(path.parent / output), "--workers", "1", *flags]) == 0
    return path.parent / output


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_file_becomes_a_store(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, *(bottom_up(str(key)) for key in range(3)))
    store = ImageStore(pack(path, "--keep_all", "--dtype", dtype, "--image_naming", "coco_{id:03d}.npz"))
    assert capsys.readouterr().out.startswith("3 images in ")
    assert store.names == ["coco_000.npz", "coco_001.npz", "coco_002.npz"]
    image = store.read("coco_001.npz")
    assert np.array_equal(image.features, FEATURES.astype(dtype))
    np.testing.assert_allclose(image.boxes[:, :6], SHARES, atol=1e-3)
    assert store.damaged(store.names) == []
    assert store.dtype == dtype


def test_predictions_choose_regions(tmp_path: Path) -> None:
    path = written(tmp_path, vinvl())
    predictions = written(tmp_path, predicted(), name="predictions.tsv")
    folder = pack(path, "--predictions", str(predictions), "--conf_th", "0.5", "--min_bb", "1")
    assert len(ImageStore(folder, RegionRule(0.5, 100, 1)).read("42.npz").features) == 1


def test_a_packing_goes_on_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, *(bottom_up(str(key)) for key in range(4)))
    whole = pack(path, "--keep_all", output="whole")
    from scripts.building import tsv

    real, seen = tsv.encode_row, list[str]()

    def stopped(row: tsv.Row, **how: object) -> object:
        seen.append(row.name)
        if len(seen) == 6:  # three are tried beforehand
            raise KeyboardInterrupt
        return real(row, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(tsv, "encode_row", stopped)
    with pytest.raises(KeyboardInterrupt):
        pack(path, "--keep_all")
    again = pack(path, "--keep_all")
    assert seen[-2:] == ["2.npz", "3.npz"]
    found, expected = (LmdbStore(folder / "native_all") for folder in (again, whole))
    assert found.keys() == expected.keys()
    assert all(bytes(found.get(key)) == bytes(expected.get(key)) for key in expected)


def test_rows_that_cannot_be_used_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, bottom_up("1"), bottom_up("2")[:-40] + "\n", bottom_up("3"))
    assert len(ImageStore(pack(path, "--keep_all")).names) == 2
    said = capsys.readouterr()
    assert "2.npz left out: " in said.err
    assert "features.tsv, line 2: " in said.err
    assert "1 left out" in said.out


@pytest.mark.parametrize(("flags", "error", "told"), [
    ((), DataError, r"features\.tsv, line 1: holds no conf, but features, norm_bb; give --conf_th -1 or --keep_all"),
    (("--keep_all", "--codec", "published", "--dtype", "float32"), ConfigError, "published layout holds float16"),
    (("--keep_all", "--columns", "image_id,features"), DataError, "line 1: has 6 columns, not 2"),
    (("--keep_all", "--image_naming", "{id:z}"), ConfigError, "does not fit image"),
])  # fmt: skip
def test_what_cannot_be_packed_is_told(
    flags: tuple[str, ...], error: type[Exception], told: str, tmp_path: Path
) -> None:
    path = written(tmp_path, bottom_up())
    with pytest.raises(error, match=told):
        pack(path, *flags)
    assert not (tmp_path / "img").exists(), "nothing is written before"


def test_boxes_of_rows_in_pixels_are_refused_and_converted(tmp_path: Path) -> None:
    six = np.concatenate([BOXES, BOXES[:, 2:] - BOXES[:, :2]], 1)
    path = written(tmp_path, row("42", 2, b64(np.concatenate([FEATURES, six], 1))))
    with pytest.raises(DataError, match=r"line 1: has boxes from 0 to 640, not shares .*; --pixel_boxes of build"):
        pack(path, "--keep_all")
    with pytest.raises(DataError, match=r"nothing says how large its picture is; give --image_sizes FILE"):
        pack(path, "--keep_all", "--pixel_boxes")
    (tmp_path / "sizes.json").write_text('{"42": [640, 480]}')
    store = ImageStore(pack(path, "--keep_all", "--pixel_boxes", "--image_sizes", str(tmp_path / "sizes.json")))
    np.testing.assert_allclose(store.read("42.npz").boxes[:, :6], SHARES, atol=1e-3)


def test_float32_keeps_every_bit_of_features_and_boxes(tmp_path: Path) -> None:
    features = FEATURES * np.float32(1e6)  # too large for half precision
    boxes = SHARES + np.float32(1e-5)
    path = written(tmp_path, row("42", 2, b64(np.concatenate([features, boxes], 1))))
    image = ImageStore(pack(path, "--keep_all", "--dtype", "float32")).read("42.npz")
    assert np.array_equal(image.features, features)
    assert np.array_equal(image.boxes[:, :6], boxes)
    with pytest.raises(DataError, match="not finite in half precision"):
        pack(path, "--keep_all", output="half")
