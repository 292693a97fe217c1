"""Folders of precomputed features (`f30k_precomp`, `coco_precomp`): an array, captions and ids of each split.

`<split>_ims.npy` holds `[images, regions, width]`, `<split>_caps.txt` the captions, as many for each image (five in the
published folders), one a line, in the order of the images, `<split>_ids.txt` perhaps the images' ids,
`<split>_precaps.txt` perhaps the captions as word ids.
Everything keeps the order of these files, since published lists speak of places in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.errors import ConfigError, DataError
from data.files import open_array
from data.source.captions_per_image import captions_per_image
from data.source.entries import Caption, Entry
from data.source.lines import read_lines
from data.words.vocabulary import END, START, Vocabulary

DEV_LIMIT = 5000
"""Captions of the split `dev` that published results are chosen on."""
PRINTED_BYTES = re.compile(r"b(['\"]).*\1")


@dataclass(frozen=True)
class Precomputed:
    """One split of a folder, or the beginning of it.

    Attributes:
        dataset: begins the names of all images and captions.
        captions: the captions, in the order of the file.
        each: captions of an image.
        ids: an id for each image; None where the folder has none.
        total: captions in the file, those behind a limit included.
    """

    folder: Path
    split: str
    dataset: str
    captions: list[str]
    each: int
    ids: list[str] | None
    total: int

    def __len__(self) -> int:
        """Images."""
        return -(-len(self.captions) // self.each)

    def image(self, row: int) -> str:
        """The name of an image from its place."""
        return f"{self.dataset}_{self.split}_{row:07d}"

    def entries(self, precaps: Vocabulary | None = None) -> list[Entry]:
        """The images with their captions; with a vocabulary also the captions' words and ids, as `precaps` has them.

        Raises:
            DataError: `precaps` is missing, has another number of captions, or no ids of this vocabulary.
        """
        given = None if precaps is None else self._precaps(precaps)
        captions: list[list[Caption]] = [[] for _ in range(len(self))]
        for position, text in enumerate(self.captions):
            row = position // self.each
            fields: dict[str, Any] = {"raw": text, "position": position, "row": row}
            if self.ids is not None:
                fields["image_id"] = int(self.ids[row]) if self.ids[row].isdecimal() else self.ids[row]
            if precaps is not None and given is not None:
                words = [precaps.words[id] for id in given[position]]
                fields |= {"toked_caption": words, "input_ids": given[position]}
            captions[row].append(Caption(f"{self.dataset}_{self.split}_c{position:07d}", text, fields))
        return [Entry(self.image(row), self.split, tuple(found)) for row, found in enumerate(captions)]

    def _precaps(self, vocabulary: Vocabulary) -> list[list[int]]:
        """The captions' word ids, without <start> and <end>."""
        path = self.folder / f"{self.split}_precaps.txt"
        lines = read_lines(path)
        if len(lines) != self.total:
            raise DataError(f"{path} has {len(lines)} lines, but there are {self.total} captions; give one for each")
        parsed = enumerate(lines[: len(self.captions)], start=1)
        return [_word_ids(line, len(vocabulary), f"{path}, line {at}") for at, line in parsed]


def read_precomputed(
    folder: str | Path, split: str, dataset: str | None = None, dev_limit: int = DEV_LIMIT, each: int = 0
) -> Precomputed:
    """The captions and ids of a split; `images_of` reads the features.

    Args:
        dataset: by default the folder's name without `_precomp`.
        dev_limit: captions taken of the split `dev`, from the first; 0 takes all. Other splits are always whole.
        each: captions of an image; 0 takes what the files say (see `captions_per_image`).

    Raises:
        ConfigError: the limit is negative, or `each` is needed or wrong.
        DataError: a file is missing or damaged, images do not all have as many captions, a caption is empty or was
            written as a printed byte string, ids are not one an image, or `dev` has fewer captions than the limit.
    """
    if dev_limit < 0:
        raise ConfigError(f"dev_limit {dev_limit}: give a number of captions, or 0 for all")
    folder = Path(folder)
    path = folder / f"{split}_caps.txt"
    if not path.is_file():
        there = sorted(found.name.removesuffix("_caps.txt") for found in folder.glob("*_caps.txt"))
        raise DataError(f"{folder} holds no {path.name}, but captions of {', '.join(there) or 'no split'}")
    captions = [line.strip() for line in read_lines(path)]
    _check_captions(path, captions)
    limit = dev_limit if split == "dev" and dev_limit else len(captions)
    if limit > len(captions):
        raise DataError(f"{path} has {len(captions)} captions, fewer than dev_limit {limit}; set --dev_limit 0 for all")
    array, ids_path = folder / f"{split}_ims.npy", folder / f"{split}_ids.txt"
    ids = [line.strip() for line in read_lines(ids_path)] if ids_path.exists() else None
    each = captions_per_image(path, len(captions), _mapped(array) if array.exists() else None, ids, each)
    name = dataset or folder.absolute().name.removesuffix("_precomp")
    ids_of_images = None if ids is None else _of_images(ids_path, ids, len(captions), each)
    return Precomputed(folder, split, name, captions[:limit], each, ids_of_images, len(captions))


def _check_captions(path: Path, captions: list[str]) -> None:
    if not captions:
        raise DataError(f"{path} holds no caption; complete the file")
    for at, caption in enumerate(captions, start=1):
        if not caption:
            raise DataError(f"{path}, line {at} is empty; every line is a caption, and its place counts")
        if PRINTED_BYTES.fullmatch(caption):
            raise DataError(f"{path}, line {at} is a printed byte string ({caption[:9]}...); write UTF-8 text")


def _of_images(path: Path, ids: list[str], captions: int, each: int) -> list[str]:
    """One id an image, from a file with as many lines or with one for each caption."""
    images = captions // each
    if len(ids) not in (images, captions):
        raise DataError(f"{path} has {len(ids)} lines for {images} images; give one for each image or caption")
    if len(ids) == images:
        return ids
    for first in range(0, captions, each):
        if len(set(ids[first : first + each])) > 1:
            raise DataError(f"{path}, line {first + 1}: the captions of one image differ in ids; mend or remove it")
    return ids[::each]


def _word_ids(line: str, size: int, where: str) -> list[int]:
    try:
        ids = [int(number) for number in line.split(",")]
    except ValueError as error:
        raise DataError(f"{where} is not a list of word ids ({error}); write the file again") from error
    if not 0 <= min(ids) <= max(ids) < size:
        found = f"{min(ids)} to {max(ids)}"
        raise DataError(f"{where} has ids {found}, but the vocabulary 0 to {size - 1}; give the --words of this file")
    if len(ids) < 3 or ids[0] != START or ids[-1] != END:
        raise DataError(f"{where} is not <start> ({START}), words, <end> ({END}); write the file again")
    return ids[1:-1]


class PrecomputedImages:
    """The features of a split, mapped into memory and read an image at a time.

    The redundant form of the array has a row for each caption, equal ones for those of an image.

    Raises:
        DataError: the array is missing, cut short or of another kind.
    """

    def __init__(self, split: Precomputed) -> None:
        self.path = split.folder / f"{split.split}_ims.npy"
        self._rows = _mapped(self.path)
        self._each = len(self._rows) // (split.total // split.each)

    @property
    def regions(self) -> int:
        """Regions of every image."""
        return int(self._rows.shape[1])

    def read(self, image: int) -> NDArray[Any]:
        """The features [regions, width] of an image, in the type of the file.

        Raises:
            DataError: the rows of the image's captions differ.
        """
        first = image * self._each
        group = np.asarray(self._rows[first : first + self._each])
        if not np.array_equal(group, np.broadcast_to(group[:1], group.shape), equal_nan=True):
            raise DataError(
                f"{self.path}: rows {first} to {first + self._each - 1} are of one image but differ; "
                f"give an array of one row an image, or {self._each} equal ones"
            )
        features: NDArray[Any] = group[0]
        return features


def _mapped(path: Path) -> NDArray[Any]:
    try:
        rows = open_array(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; check the path") from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as an array ({reason}); copy it again") from error
    if rows.ndim != 3 or not rows.size:
        raise DataError(f"{path} is {list(rows.shape)}, not images x regions x width; give an array of region features")
    if rows.dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise DataError(f"{path} holds {rows.dtype}, not float32 or float16; convert it")
    return rows
