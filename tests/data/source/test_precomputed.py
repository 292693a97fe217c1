"""Precomputed folders are read in the order of their files, never whole, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from data.source.precomputed import PrecomputedImages, read_precomputed
from data.words.vocabulary import SPECIAL_WORDS, Vocabulary
from tests.precomputed import WORDS, caption, write_precomputed

VOCABULARY = Vocabulary((*SPECIAL_WORDS, *WORDS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_precomputed(tmp_path / "f30k_precomp")
    return tmp_path / "f30k_precomp"


def test_images_and_captions_keep_the_order_of_the_files(folder: Path) -> None:
    split = read_precomputed(folder, "train")
    assert len(split) == 6
    entries = split.entries()
    assert [entry.image for entry in entries] == [f"f30k_train_000000{row}" for row in range(6)]
    captions = [found for entry in entries for found in entry.captions]
    assert [found.text for found in captions] == [caption(position) for position in range(30)]
    assert len({found.id for found in captions}) == 30
    assert sorted(found.id for found in captions) == [found.id for found in captions]
    assert captions[7].fields == {"raw": caption(7), "position": 7, "row": 1, "image_id": 999}
    assert {entry.split for entry in entries} == {"train"}


def test_no_caption_begins_like_printed_bytes(folder: Path) -> None:
    """Bytes put through str() in Python 3 become b'...': read as text, captions begin with their first letter."""
    captions = [found.text for entry in read_precomputed(folder, "train").entries() for found in entry.captions]
    assert all(text.startswith("A ") for text in captions)
    assert not any(text.startswith(("b'", 'b"')) or text.endswith("'") for text in captions)


def test_captions_are_utf8_text(folder: Path) -> None:
    lines = ["un café rouge", "it’s\u2028fine", "  padded ", "b 'n' b", "日本"] * 6
    (folder / "train_caps.txt").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    found = [found.text for entry in read_precomputed(folder, "train").entries() for found in entry.captions]
    assert found[:5] == ["un café rouge", "it’s\u2028fine", "padded", "b 'n' b", "日本"]


@pytest.mark.parametrize("each", [1, 5, None])
def test_ids_are_one_an_image_or_one_a_caption_or_absent(tmp_path: Path, each: int | None) -> None:
    write_precomputed(tmp_path, ids_each=each)
    split = read_precomputed(tmp_path, "train", dataset="toy")
    assert split.ids == ([str(1000 - image) for image in range(6)] if each else None)
    assert ("image_id" in split.entries()[0].captions[0].fields) == bool(each)
    assert split.image(3) == "toy_train_0000003"


def test_ids_that_are_no_numbers_stay_text(folder: Path) -> None:
    (folder / "train_ids.txt").write_text("".join(f"{image}.jpg\n" for image in range(6)))
    assert read_precomputed(folder, "train").entries()[2].captions[0].fields["image_id"] == "2.jpg"


@pytest.mark.parametrize("redundant", [False, True])
def test_features_are_read_an_image_at_a_time(tmp_path: Path, redundant: bool) -> None:
    rows = write_precomputed(tmp_path, redundant=redundant)
    images = PrecomputedImages(read_precomputed(tmp_path, "train"))
    assert images.regions == 4
    for image, expected in enumerate(rows):
        got = images.read(image)
        assert got.dtype == np.float32
        assert np.array_equal(got, expected)


def test_the_array_is_mapped_and_never_loaded_whole(tmp_path: Path) -> None:
    """The array states a terabyte, of which the disk holds a few pages."""
    write_precomputed(tmp_path, images=2)
    shape = (2, 36, 1 << 32)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with (tmp_path / "train_ims.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * int(np.prod(shape, dtype=np.int64)))
    assert PrecomputedImages(read_precomputed(tmp_path, "train")).regions == 36


def test_half_precision_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = write_precomputed(tmp_path).astype(np.float16)
    np.save(tmp_path / "train_ims.npy", rows)
    got = PrecomputedImages(read_precomputed(tmp_path, "train")).read(1)
    assert got.dtype == np.float16
    assert np.array_equal(got, rows[1])


def test_only_the_split_dev_has_a_limit(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        write_precomputed(tmp_path, split)
    dev, test = (read_precomputed(tmp_path, split, dev_limit=12) for split in ("dev", "test"))
    assert [len(entry.captions) for entry in dev.entries()] == [5, 5, 2]
    assert (len(dev), len(test)) == (3, 6)
    assert len(read_precomputed(tmp_path, "dev", dev_limit=0)) == 6
    assert PrecomputedImages(dev).read(2).shape == (4, 6)
    with pytest.raises(DataError, match=r"30 captions, fewer than dev_limit 5000; set --dev_limit 0"):
        read_precomputed(tmp_path, "dev")
    with pytest.raises(ConfigError, match="dev_limit -1: give a number of captions, or 0 for all"):
        read_precomputed(tmp_path, "dev", dev_limit=-1)


def test_published_word_ids_lose_their_marks(tmp_path: Path) -> None:
    write_precomputed(tmp_path, "dev")
    found = read_precomputed(tmp_path, "dev", dev_limit=7).entries(VOCABULARY)[1].captions
    assert len(found) == 2
    assert found[1].fields["input_ids"] == [4, 7, 7]
    assert found[1].fields["toked_caption"] == ["a", "runs", "runs"]


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    return apply


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.unlink(), r"holds no train_caps\.txt, but captions of dev"),
        (lines(lambda found: found[:-1]), r"has 29 captions, but there are 6 rows of its array: not as many for each"),
        (lines(lambda found: []), r"holds no caption; complete the file"),
        (lines(lambda found: [*found[:11], "  ", *found[12:]]), r"train_caps\.txt, line 12 is empty"),
        (lines(lambda found: [f"b'{line}'" for line in found]), r"line 1 is a printed byte string \(b'A Dog r\.\.\.\)"),
        (lines(lambda found: [*found[:4], 'b"it\'s"', *found[5:]]), "line 5 is a printed byte string"),
        (lambda path: path.write_bytes(b"\xff\xfe" * 40), "cannot be read as text"),
    ],
)
def test_captions_that_cannot_be_used_are_refused(folder: Path, change: Callable[[Path], None], told: str) -> None:
    write_precomputed(folder, "dev")
    change(folder / "train_caps.txt")
    with pytest.raises(DataError, match=told) as error:
        read_precomputed(folder, "train")
    assert "\n" not in str(error.value)


def test_ids_that_do_not_fit_are_refused(folder: Path) -> None:
    path = folder / "train_ids.txt"
    path.write_text("1\n2\n")
    with pytest.raises(DataError, match=r"train_ids\.txt has 2 lines for 6 images"):
        read_precomputed(folder, "train")
    path.write_text("".join(f"{(position + 1) // 5}\n" for position in range(30)))
    with pytest.raises(DataError, match=r"train_ids\.txt, line 1: the captions of one image differ in ids"):
        read_precomputed(folder, "train")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.unlink(), r"train_precaps\.txt is missing"),
        (lines(lambda found: found[:-1]), "has 29 lines, but there are 30 captions"),
        (lines(lambda found: ["1,14,2", *found[1:]]), r"line 1 has ids 1 to 14, but the vocabulary 0 to 13"),
        (lines(lambda found: [*found[:2], "1,-4,2", *found[3:]]), r"line 3 has ids -4 to 2, but the vocabulary"),
        (lines(lambda found: ["1,a,2", *found[1:]]), "line 1 is not a list of word ids"),
        (lines(lambda found: ["", *found[1:]]), "line 1 is not a list of word ids"),
        (lines(lambda found: ["1,2", *found[1:]]), "line 1 is not <start> .*, words, <end>"),
        (lines(lambda found: ["4,5,2", *found[1:]]), "line 1 is not <start> .*, words, <end>"),
        (lines(lambda found: ["1,5,5", *found[1:]]), "line 1 is not <start> .*, words, <end>"),
    ],
)
def test_word_ids_that_do_not_fit_are_refused(folder: Path, change: Callable[[Path], None], told: str) -> None:
    change(folder / "train_precaps.txt")
    with pytest.raises(DataError, match=told):
        read_precomputed(folder, "train").entries(VOCABULARY)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(300)


def saved(rows: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, rows)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.unlink(), r"train_ims\.npy is missing"),
        (truncate, "cannot be read as an array"),
        (lambda path: path.write_bytes(b""), "cannot be read as an array"),
        (lambda path: path.write_text("1 2 3"), "cannot be read as an array"),
        (saved(np.array([[["a"]]], dtype=object)), "cannot be read as an array"),
        (saved(np.zeros((6, 4, 6), np.int64)), "holds int64, not float32 or float16"),
        (saved(np.zeros((6, 4, 6))), "holds float64, not float32 or float16"),
        (saved(np.zeros((6, 24), np.float32)), r"is \[6, 24\], not images x regions x width"),
        (saved(np.zeros((6, 0, 6), np.float32)), r"is \[6, 0, 6\], not images x regions x width"),
        (saved(np.zeros((7, 4, 6), np.float32)), "has 30 captions, but there are 7 rows of its array"),
        (lambda path: np.savez(path.open("wb"), rows=np.zeros(3)), "cannot be read as an array"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(folder: Path, change: Callable[[Path], None], told: str) -> None:
    change(folder / "train_ims.npy")
    with pytest.raises(DataError, match=told) as error:
        PrecomputedImages(read_precomputed(folder, "train"))
    assert "\n" not in str(error.value)


def test_unequal_rows_of_one_image_are_refused(tmp_path: Path) -> None:
    write_precomputed(tmp_path, redundant=True)
    rows = np.load(tmp_path / "train_ims.npy", allow_pickle=False)
    rows[13, 2, 1] += 1
    np.save(tmp_path / "train_ims.npy", rows)
    images = PrecomputedImages(read_precomputed(tmp_path, "train"))
    images.read(1)
    with pytest.raises(DataError, match="rows 10 to 14 are of one image but differ"):
        images.read(2)
