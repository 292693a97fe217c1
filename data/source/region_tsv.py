"""Region features in `.tsv` files, a row an image, arrays in base64: bottom-up attention, LXMERT and VinVL."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.errors import DataError
from config.wording import pluralise
from data.source.detector_output import BoxRule, regions_of
from data.source.fields import kind_of

Arrays = dict[str, NDArray[Any]]

BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
          "features")  # fmt: skip
COLUMNS = {6: BOTTOM_UP, 10: LXMERT, 3: ("image_id", "num_boxes", "features"), 2: ("image_id", "json")}
"""The columns of published files, by their number; the last two are VinVL's."""
SAME = {"img_id": "image_id", "img_w": "image_w", "img_h": "image_h", "objects_conf": "conf"}
VINVL_WIDTH, BOX_NUMBERS = 2048, 6
"""VinVL's rows are 2,054 wide: 2,048 features, then x1, y1, x2, y2, width and height of the box, as shares."""
READ_AT_ONCE = 1 << 24
KEY_BYTES = 512
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PRINTED = re.compile(rb"b(['\"])(.*)\1")
"""How a program of Python 3 that was written for Python 2 prints base64 into its file."""
PLAIN = BoxRule()
INDEX = ".lineidx"
OTHER_FILE = "give the file that belongs to these features"


class TsvFile:
    """The rows of a file by their places, which its line index tells, or a look through the file.

    Attributes:
        keys: what each row is of.
        starts: `[rows + 1]` int64, where rows begin, and the end of the file.

    Raises:
        DataError: the file is missing or empty, its index is that of another file, or a key stands in two rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(f"{path} is no file; name a .tsv of region features")
        index = path.with_suffix(INDEX)
        self.starts = _indexed(path, index) if index.exists() else _looked_through(path)
        with path.open("rb") as file:
            while len(self.starts) > 1 and not self._line(file, len(self.starts) - 2).strip():
                self.starts = self.starts[:-1]  # blank lines at the end
            if len(self.starts) < 2:
                raise DataError(f"{path} holds no row; copy it again")
            self.keys = [self._key(file, row) for row in range(len(self.starts) - 1)]
        self._check_keys()

    def _check_keys(self) -> None:
        first: dict[str, int] = {}
        twice = [row for row, key in enumerate(self.keys) if first.setdefault(key, row) != row]
        if twice:
            key = self.keys[twice[0]]
            more = f" ({pluralise(len(twice), 'line')} in all repeat a key)" if len(twice) > 1 else ""
            raise DataError(f"{self.path}, line {twice[0] + 1}: {key} stands in line {first[key] + 1} already{more}; "
                            "keep one line of each")  # fmt: skip

    def _line(self, file: BinaryIO, row: int) -> bytes:
        """The beginning of a row, or all of it."""
        start, end = map(int, self.starts[row : row + 2])
        file.seek(start)
        return file.read(min(end - start, KEY_BYTES))

    def _key(self, file: BinaryIO, row: int) -> str:
        begin = self._line(file, row)
        key, tab, _ = (begin.removeprefix(BYTE_ORDER_MARK) if row == 0 else begin).partition(b"\t")
        if not begin.strip():
            raise DataError(f"{self.path}, line {row + 1}: is empty; remove it")
        if not (key and tab):
            raise DataError(f"{self.path}, line {row + 1}: begins with no key and tab; give an unpacked .tsv")
        try:
            return key.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}, line {row + 1}: its key is not UTF-8; mend it") from error

    def place(self, row: int) -> Place:
        """Where a row is."""
        return Place(self.path, row + 1, int(self.starts[row]), int(self.starts[row + 1]))


class Place(NamedTuple):
    """One row of a file, and its line for what is said."""

    path: Path
    line: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"

    def cells(self) -> list[bytes]:
        """The row's cells, read now."""
        file = _opened(self.path)
        file.seek(self.start)
        row = file.read(self.end - self.start).rstrip(b"\r\n")
        if b"\n" in row:
            index = self.path.with_suffix(INDEX)
            raise DataError(f"holds several lines: {index.name} skips one; remove that index, it is not needed")
        return row.split(b"\t")


@lru_cache(maxsize=4)
def _opened(path: Path) -> BinaryIO:
    """The file, opened once in each process."""
    return path.open("rb")


def _looked_through(path: Path) -> NDArray[np.int64]:
    starts, at = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(READ_AT_ONCE):
            starts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + at + 1)
            at += len(block)
    found = np.concatenate(starts)
    return found if found[-1] == at else np.append(found, at)


def _indexed(path: Path, index: Path) -> NDArray[np.int64]:
    """Where rows begin as an index says, which is believed only if they do."""
    try:
        starts = np.array(index.read_text(encoding="ascii").split(), np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{index}: is no list of places ({error}); remove it, it is not needed") from error
    size = path.stat().st_size
    wrong = not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= size
    if not wrong:
        with path.open("rb") as file:
            for start in starts[1:]:
                file.seek(start - 1)
                wrong = wrong or file.read(1) != b"\n"
            file.seek(starts[-1])
            wrong = wrong or b"\n" in file.read().rstrip(b"\n")
    if wrong:
        raise DataError(f"{index}: is the index of another file than {path.name}; remove it, it is not needed")
    return np.append(starts, size)


def read_row(
    place: Place, columns: Sequence[str] | None = None, predictions: Place | None = None, rule: BoxRule = PLAIN
) -> Arrays:
    """The regions of one picture: `features [n, d]`, `norm_bb [n, 6]`, and `conf [n]` where the files have it.

    Args:
        columns: the names of the row's cells; those of published files are known by their number.
        predictions: its row in VinVL's `predictions.tsv`, which tells confidences, and boxes where the row has none.
        rule: how its boxes are read.

    Raises:
        DataError: the row is cut off, or no such row; names the line.
    """
    try:
        return _read_row(place, columns, predictions, rule)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{place}: is damaged ({type(error).__name__}: {error}); copy the file again") from error


def _read_row(place: Place, columns: Sequence[str] | None, predictions: Place | None, rule: BoxRule) -> Arrays:
    cells = place.cells()
    names = columns or COLUMNS.get(len(cells))
    if names is None or len(names) != len(cells):
        raise DataError(f"has {len(cells)} columns, not {len(columns) if columns else '2, 3, 6 or 10'}; name them with "
                        f"--columns, as in {','.join(BOTTOM_UP)}")  # fmt: skip
    found: dict[str, Any] = {SAME.get(name, name): cell for name, cell in zip(names, cells, strict=True)}
    if "json" in found:
        found |= _object(found.pop("json"))
    absent = [name for name in ("num_boxes", "features") if name not in found]
    if absent:
        raise DataError(f"holds no {' and no '.join(absent)}, but {', '.join(found)}; name the file of the "
                        "features, or its columns with --columns")  # fmt: skip
    count = _whole(found["num_boxes"])
    features = _array(found["features"], count, "features")
    told = _predicted(predictions, count) if predictions else {}
    told |= {side: np.array(_number(found[side], side)) for side in ("image_w", "image_h") if side in found}
    if "boxes" in found:
        told["norm_bb"] = _array(found["boxes"], count, "boxes", 4)
        told |= {"conf": _array(found["conf"], count, "objects_conf", 1)[:, 0]} if "conf" in found else {}
    elif features.shape[1] == VINVL_WIDTH + BOX_NUMBERS:
        features, told["norm_bb"] = features[:, :VINVL_WIDTH], features[:, VINVL_WIDTH:]
    elif "norm_bb" not in told:
        raise DataError(f"features are {features.shape[1]} wide and come without boxes: VinVL's have "
                        f"{VINVL_WIDTH + BOX_NUMBERS} columns, of which the last {BOX_NUMBERS} are the box; give "
                        "--predictions FILE, which tells the boxes")  # fmt: skip
    return regions_of({"features": features, **told}, rule)


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise DataError(f"holds {kind_of(value)}, not an object with num_boxes and features; name the file of features")
    return value


def _whole(count: Any) -> int:
    """How many boxes a row says that it has."""
    try:
        return int(count)
    except (ValueError, TypeError) as error:
        shown = count.decode(errors="replace") if isinstance(count, bytes) else count
        told = f"has {str(shown)[:30]!r} as num_boxes; is this a header, or another layout?"
        raise DataError(f"{told} Remove the line, or name the columns with --columns") from error


def _number(text: Any, what: str) -> float:
    try:
        return float(text)
    except (ValueError, TypeError) as error:
        shown = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise DataError(f"is damaged: its {what} is {str(shown)[:30]!r}; mend it, or name the columns with "
                        "--columns") from error  # fmt: skip


def _array(text: bytes | str, rows: int, what: str, columns: int | None = None) -> NDArray[np.float32]:
    """`[rows, columns]` of float32 numbers in base64."""
    coded = text.encode() if isinstance(text, str) else text
    printed = PRINTED.fullmatch(coded)
    data = base64.b64decode(printed[2] if printed else coded, validate=True)
    of_each = f"{columns} float32 numbers" if columns else "float32 numbers"
    if rows < 1 or not data or len(data) % (4 * rows) or (columns and len(data) != 4 * rows * columns):
        raise DataError(f"{what}: {len(data)} bytes do not make {rows} rows of {of_each}; copy the file again")
    return np.frombuffer(data, "<f4").reshape(rows, -1)


def _predicted(place: Place, count: int) -> Arrays:
    """Boxes in pixels, confidences, and the picture's size of a row of `predictions.tsv`, which may lack the size."""
    try:
        content = json.loads(place.cells()[1])
        objects = content["objects"] if isinstance(content, dict) else content
        boxes = np.array([one["rect"] for one in objects], np.float32).reshape(-1, 4)
        conf = np.array([one["conf"] for one in objects], np.float32)
        sides = ("image_w", "image_h") if isinstance(content, dict) else ()
        sizes = {side: np.array(float(content[side])) for side in sides if side in content}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise DataError(f"{place}: holds no objects with rect and conf ({type(error).__name__}: {error}); {OTHER_FILE}"
                        ) from error  # fmt: skip
    if len(objects) != count:
        raise DataError(f"{place} has {pluralise(len(objects), 'object')} for {count} rows of features; {OTHER_FILE}")
    return {"norm_bb": boxes, "conf": conf, **sizes}


def predictions_of(keys: Sequence[str], predictions: TsvFile) -> Mapping[str, Place]:
    """The predictions of each picture.

    Raises:
        DataError: some have none.
    """
    rows = {key: row for row, key in enumerate(predictions.keys)}
    absent = [key for key in keys if key not in rows]
    if absent:
        raise DataError(f"{predictions.path} lacks {len(absent)} of the pictures, such as {absent[0]}; {OTHER_FILE}")
    return {key: predictions.place(rows[key]) for key in keys}
