"""How many captions an image has follows from the files of a folder, or is said; what leaves it open is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from data.source.captions_per_image import LOOKED_AT, captions_per_image
from data.source.precomputed import PrecomputedImages, read_precomputed
from tests.precomputed import caption, features, write_precomputed

CAPS = Path("train_caps.txt")


def each(captions: int, rows: Any, ids: Any = None, said: int = 0) -> int:
    return captions_per_image(CAPS, captions, rows, ids, said)


@pytest.mark.parametrize("ids_each", [1, None, "all"])
@pytest.mark.parametrize("redundant", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 7])
def test_folders_of_any_number_are_read_as_they_were_written(
    tmp_path: Path, number: int, redundant: bool, ids_each: int | str | None
) -> None:
    of_ids = number if ids_each == "all" else ids_each
    rows = write_precomputed(tmp_path, each=number, redundant=redundant, ids_each=of_ids)  # type: ignore[arg-type]
    split = read_precomputed(tmp_path, "train")
    images = PrecomputedImages(split)
    assert (len(split), split.each) == (6, number)
    assert [len(entry.captions) for entry in split.entries()] == [number] * 6
    assert split.entries()[5].captions[0].text == caption(5 * number)
    assert all(np.array_equal(images.read(image), rows[image]) for image in range(6))
    assert read_precomputed(tmp_path, "train", each=number) == split


def test_thirty_captions_of_thirty_images_stay_thirty(tmp_path: Path) -> None:
    """They once became six images of five captions, or were refused."""
    write_precomputed(tmp_path, images=30, each=1, ids_each=None)
    assert len(read_precomputed(tmp_path, "train").entries()) == 30


def test_long_arrays_are_told_by_their_first_rows() -> None:
    rows = features(100)
    assert each(100, rows) == 1
    assert each(500, np.repeat(rows, 5, axis=0)) == 5
    assert each(2 * LOOKED_AT + 2, np.repeat(features(2 * LOOKED_AT // 2 + 1), 2, axis=0)) == 2


@pytest.mark.parametrize("rows", [
    features(6)[[0, 0, 1, 2, 3, 4]],  # two pictures alike, or rows that repeat?
    np.repeat(features(3), [3, 3, 2], axis=0),
    np.zeros((2 * LOOKED_AT, 4, 6), np.float32),
    np.repeat(features(40), 3, axis=0)[:119],
])  # fmt: skip
def test_rows_that_do_not_tell_leave_it_to_the_ids_or_to_the_user(rows: Any) -> None:
    captions = len(rows)
    with pytest.raises(ConfigError, match=rf"has {captions} captions, beside it are an array of {captions} rows and no "
                       r"ids, which do not tell how many an image has; give --captions_per_image N"):
        each(captions, rows)
    assert each(captions, rows, [str(at) for at in range(captions)]) == 1
    assert each(captions, rows, said=1) == 1


def test_rows_and_ids_that_tell_different_things_are_refused() -> None:
    rows = np.repeat(features(6), 5, axis=0)
    assert each(30, rows, [str(at) for at in range(6)]) == 5
    with pytest.raises(ConfigError, match="an array of 30 rows and 30 ids, which do not tell"):
        each(30, rows, [str(at) for at in range(30)])


def test_without_an_array_the_ids_tell_or_the_user() -> None:
    """As where captions are packed on a machine without the features."""
    assert each(30, None, [str(at) for at in range(10)]) == 3
    assert each(30, None, [str(at // 5) for at in range(30)]) == 5
    assert each(30, None, said=5) == 5
    with pytest.raises(ConfigError, match="has 30 captions, beside it are no array and no ids, which do not tell"):
        each(30, None)
    with pytest.raises(DataError, match=r"has 30 captions, but there are 7 ids: not as many for each image"):
        each(30, None, ["a"] * 7)


@pytest.mark.parametrize(("captions", "images"), [(31, 6), (6, 30), (29, 6)])
def test_images_and_captions_that_do_not_fit_are_told_with_both_numbers(captions: int, images: int) -> None:
    with pytest.raises(DataError, match=rf"has {captions} captions, but there are {images} rows of its array: not as "):
        each(captions, features(images))


def test_what_is_said_must_fit_the_files() -> None:
    assert each(30, features(10), said=3) == 3
    assert each(30, features(30), said=3) == 3
    for said, told in ((4, "train_caps.txt has 30 captions and its array 10 rows"), (5, "t"), (-1, "give how many")):
        with pytest.raises(ConfigError, match=f"--captions_per_image {said}: {told}"):
            each(30, features(10), said=said)


def test_rows_that_are_not_equal_where_one_was_said_to_be_an_image_are_refused(tmp_path: Path) -> None:
    write_precomputed(tmp_path, images=30, each=1, ids_each=None)
    with pytest.raises(DataError, match="rows 0 to 2 are of one image but differ"):
        PrecomputedImages(read_precomputed(tmp_path, "train", each=3)).read(0)
