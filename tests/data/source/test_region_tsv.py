"""Region features in .tsv files: every published layout, and whatever is wrong told with its line."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import DataError
from data.source.detector_output import BoxRule
from data.source.region_tsv import BOTTOM_UP, TsvFile, predictions_of, read_row

RNG = np.random.default_rng(0)
BOXES = np.array([[0, 0, 320, 240], [64, 48, 640, 480]], np.float32)
SHARES = np.array([[0, 0, 0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 1, 1, 0.9, 0.9]], np.float32)
FEATURES = RNG.random((2, 2048), np.float32)
CONF = np.array([0.9, 0.3], np.float32)


def b64(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def row(*cells: object) -> str:
    return "\t".join(str(cell) for cell in cells) + "\n"


def bottom_up(key: str = "42") -> str:
    return row(key, 640, 480, 2, b64(BOXES), b64(FEATURES))


def vinvl(key: str = "42", wide: bool = True) -> str:
    features = np.concatenate([FEATURES, SHARES], 1) if wide else FEATURES
    return row(key, json.dumps({"num_boxes": 2, "features": b64(features)}))


def predicted(key: str = "42", objects: int = 2) -> str:
    found = [{"rect": box.tolist(), "conf": float(conf), "class": "dog"} for box, conf in zip(BOXES, CONF, strict=True)]
    return row(key, json.dumps({"image_w": 640, "image_h": 480, "num_boxes": 2, "objects": found[:objects]}))


LXMERT = row("42", 480, 640, b64(CONF), b64(CONF), b64(CONF), b64(CONF), 2, b64(BOXES), b64(FEATURES))
LAYOUTS = {
    "bottom-up": bottom_up(),
    "lxmert": LXMERT,
    "vinvl json": vinvl(),
    "vinvl columns": row("42", 2, b64(np.concatenate([FEATURES, SHARES], 1))),
}


def written(folder: Path, *rows: str, name: str = "features.tsv") -> Path:
    path = folder / name
    path.write_text("".join(rows))
    return path


def first(path: Path, **how: Any) -> dict[str, np.ndarray]:
    return read_row(TsvFile(path).place(0), **how)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_known_by_their_columns(layout: str, tmp_path: Path) -> None:
    got = first(written(tmp_path, LAYOUTS[layout]))
    assert np.array_equal(got["features"], FEATURES), "to the bit"
    np.testing.assert_allclose(got["norm_bb"], SHARES, atol=1e-7)
    assert ("conf" in got) == (layout == "lxmert")


@pytest.mark.parametrize("wide", [True, False])
def test_predictions_tell_boxes_and_confidences(wide: bool, tmp_path: Path) -> None:
    features = TsvFile(written(tmp_path, vinvl("7", wide), vinvl("42", wide)))
    predictions = TsvFile(written(tmp_path, predicted("42"), predicted("7"), predicted("9"), name="predictions.tsv"))
    places = predictions_of(features.keys, predictions)
    got = read_row(features.place(1), predictions=places["42"])
    assert np.array_equal(got["features"], FEATURES)
    np.testing.assert_allclose(got["norm_bb"], SHARES, atol=1e-7)
    np.testing.assert_allclose(got["conf"], CONF)
    with pytest.raises(DataError, match=r"predictions\.tsv lacks 1 of the pictures, such as 8"):
        predictions_of(["7", "8"], predictions)


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, row("42", 480, 640, 2, b64(BOXES), b64(FEATURES)))
    with pytest.raises(DataError, match=r"boxes that go to 640 x 480 in a picture of 480 x 640; if width and height"):
        first(path)
    columns = ("image_id", "image_h", "image_w", "num_boxes", "boxes", "features")
    np.testing.assert_allclose(first(path, columns=columns)["norm_bb"], SHARES, atol=1e-7)


def test_rows_are_found_by_an_index_or_without_one(tmp_path: Path) -> None:
    rows = [bottom_up(str(key)) for key in range(5)]
    path = written(tmp_path, *rows)
    looked = TsvFile(path)
    (tmp_path / "features.lineidx").write_text("".join(f"{len(''.join(rows[:at]))}\n" for at in range(5)))
    indexed = TsvFile(path)
    assert indexed.keys == looked.keys == ["0", "1", "2", "3", "4"]
    assert indexed.starts.tolist() == looked.starts.tolist()
    path.write_text("".join(rows).rstrip("\n"))
    assert TsvFile(path).keys == looked.keys, "the last line may have no end"


@pytest.mark.parametrize(
    "index", ["", "0\n5\n", "0\nx\n", "9\n", "0\n0\n", "0\n99999999\n", f"0\n{10**30}\n", "-9\n", "0\n"]
)
def test_an_index_of_another_file_is_refused(index: str, tmp_path: Path) -> None:
    path = written(tmp_path, bottom_up("1"), bottom_up("2"))
    (tmp_path / "features.lineidx").write_text(index)
    with pytest.raises(DataError, match=r"features\.lineidx: is .*; remove it, it is not needed"):
        TsvFile(path)


@pytest.mark.parametrize(("rows", "told"), [
    ([""], "holds no row"),
    (["\n", "\r\n", "\n"], "holds no row"),
    ([bottom_up("1"), "\n", bottom_up("2")], "line 2: is empty; remove it"),
    (["no tabs here\n"], "line 1: begins with no key and tab"),
    ([bottom_up("1"), bottom_up("2"), bottom_up("1")], "line 3: 1 stands in line 1 already; keep one line of each"),
    ([bottom_up(key) for key in "1122"], r"line 2: 1 .* already \(2 lines in all repeat a key\); keep one line"),
    ([row("1", 2, 3, 4)], r"line 1: has 4 columns, not 2, 3, 6 or 10; name them with --columns, as in image_id,"),
    ([row("1", 640, 480, 3, b64(BOXES), b64(FEATURES))], r"line 1: features: 16384 bytes do not make 3 rows"),
    ([row("1", 640, 480, 0, "", "")], "line 1: features: 0 bytes do not make 0 rows"),
    ([bottom_up("1")[:-40] + "\n"], "line 1: .*copy the file again"),
    ([row("1", "x", 480, 2, b64(BOXES), b64(FEATURES))], "line 1: is damaged: its image_w is 'x'; mend it"),
    ([row("1", "{}")], "line 1: holds no num_boxes and no features, but image_id; name"),
    ([row("1", "[]")], "line 1: holds a list, not an object with num_boxes and features"),
    ([predicted("1")], "line 1: holds no features, but image_id, image_w, image_h, num_boxes, objects; name the file"),
    ([row(*BOTTOM_UP)], "line 1: has 'num_boxes' as num_boxes; is this a header, or another layout"),
    ([row("1", 0, 480, 2, b64(BOXES), b64(FEATURES))], "line 1: is of a picture of 0 x 480; mend its width"),
    ([row("1", "inf", 480, 2, b64(BOXES), b64(FEATURES))], "line 1: is of a picture of inf x 480; mend its width"),
    ([row("1", 640, 480, 2, b64(BOXES[:, :3]), b64(FEATURES))], "boxes: 24 bytes do not make 2 rows of 4 float32"),
    ([row("1", 640, 480, 2, b64(BOXES[:, ::-1]), b64(FEATURES))], "line 1: has boxes that end before they begin"),
    ([row("1", "{")], "line 1: is damaged"),
    ([vinvl(wide=False)], "line 1: features are 2048 wide and come without boxes: VinVL's have 2054 columns, of which"),
])  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(rows: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        first(written(tmp_path, *rows))


def test_predictions_of_other_features_are_refused(tmp_path: Path) -> None:
    features = TsvFile(written(tmp_path, vinvl()))
    predictions = TsvFile(written(tmp_path, predicted(objects=1), name="predictions.tsv"))
    with pytest.raises(DataError, match="has 1 object for 2 rows of features"):
        read_row(features.place(0), predictions=predictions.place(0))


@pytest.mark.parametrize("content", [
    '{"objects": 3}', "[1]", "{", '[{"rect": [1, 2], "conf": 1}]', '[{"rect": [1, 2, 3, 4]}]',
])  # fmt: skip
def test_predictions_that_are_none_are_told_with_both_lines(content: str, tmp_path: Path) -> None:
    features = TsvFile(written(tmp_path, vinvl()))
    predictions = TsvFile(written(tmp_path, row("42", content), name="predictions.tsv"))
    with pytest.raises(DataError, match=r"features\.tsv, line 1: .*predictions\.tsv, line 1"):
        read_row(features.place(0), predictions=predictions.place(0))


def test_predictions_may_be_a_list_that_tells_no_size(tmp_path: Path) -> None:
    """Then rows of 2,054 tell their boxes themselves; those of 2,048 need the size of the picture."""
    objects = json.loads(predicted().split("\t")[1])["objects"]
    place = TsvFile(written(tmp_path, row("42", json.dumps(objects)), name="predictions.tsv")).place(0)
    got = first(written(tmp_path, vinvl()), predictions=place)
    assert np.array_equal(got["norm_bb"], SHARES), "to the bit"
    np.testing.assert_allclose(got["conf"], CONF)
    narrow = written(tmp_path, vinvl(wide=False))
    with pytest.raises(DataError, match=r"boxes in pixels \(from 0 to 640\), and nothing says .* give --image_sizes"):
        first(narrow, predictions=place)
    got = first(narrow, predictions=place, rule=BoxRule(size=(640, 480)))
    np.testing.assert_allclose(got["norm_bb"], SHARES, atol=1e-7)


def test_a_row_keeps_its_own_boxes_to_the_bit_beside_predictions(tmp_path: Path) -> None:
    place = TsvFile(written(tmp_path, predicted(), name="predictions.tsv")).place(0)
    assert np.array_equal(first(written(tmp_path, vinvl()), predictions=place)["norm_bb"], SHARES)


def test_boxes_of_a_wide_row_may_be_said_to_be_in_pixels(tmp_path: Path) -> None:
    six = np.concatenate([BOXES, BOXES[:, 2:] - BOXES[:, :2]], 1)
    path = written(tmp_path, row("42", 2, b64(np.concatenate([FEATURES, six], 1))))
    got = first(path, rule=BoxRule(pixels=True, size=(640, 480)))
    np.testing.assert_allclose(got["norm_bb"], SHARES, atol=1e-7)


def test_boxes_that_are_shares_already_stay_so(tmp_path: Path) -> None:
    got = first(written(tmp_path, row("42", 640, 480, 2, b64(SHARES[:, :4]), b64(FEATURES))))
    np.testing.assert_allclose(got["norm_bb"], SHARES, atol=1e-7)


@pytest.mark.parametrize("quote", "'\"")
def test_base64_as_python_prints_bytes_is_read(quote: str, tmp_path: Path) -> None:
    printed = (f"b{quote}{b64(array)}{quote}" for array in (BOXES, FEATURES))
    assert np.array_equal(first(written(tmp_path, row("42", 640, 480, 2, *printed)))["features"], FEATURES)


def test_windows_line_ends_and_a_mark_of_utf8_are_no_part_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "features.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + bottom_up().replace("\n", "\r\n").encode())
    assert TsvFile(path).keys == ["42"]
    assert np.array_equal(first(path)["features"], FEATURES)


def test_an_index_that_skips_a_line_is_told(tmp_path: Path) -> None:
    rows = [bottom_up(str(key)) for key in range(3)]
    path = written(tmp_path, *rows)
    (tmp_path / "features.lineidx").write_text(f"0\n{len(rows[0] + rows[1])}\n")
    with pytest.raises(DataError, match=r"line 1: holds several lines: features\.lineidx skips one; remove that index"):
        first(path)


def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    file = TsvFile(written(tmp_path, bottom_up("1"), bottom_up("2"), "\n", "\r\n"))
    assert file.keys == ["1", "2"]
    assert np.array_equal(read_row(file.place(1))["features"], FEATURES)
