"""Precomputed folders to stores through the programs: places are kept, kills are survived, wrong input is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from data.batches.pairs import PairIndex, Source
from data.source.precomputed import PrecomputedImages
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from data.stores.text_store import TextStore
from data.words.vocabulary import SPECIAL_WORDS, Vocabulary
from scripts import build_imgdb, build_txtdb, check_db
from tests.precomputed import WORDS, caption, write_precomputed, write_words

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images and a vocabulary."""
    write_precomputed(tmp_path / "f30k_precomp", images=12)
    write_words(tmp_path / "vocab.json")
    return tmp_path / "f30k_precomp"


def pack_images(folder: Path, *flags: str, split: str = "train") -> ImageStore:
    output = folder.parent / "img" / split
    build_imgdb.main(["precomp", str(folder), "--split", split, "--output", str(output), *flags])
    return ImageStore(output)


def pack_texts(folder: Path, *flags: str, split: str = "train", name: str = "toy") -> TextStore:
    output = folder.parent / f"{name}.db"
    words = [] if "--make_words" in flags else ["--words", str(folder.parent / "vocab.json")]
    common = ["--precomp", str(folder), "--split", split, "--output", str(output), "--workers", "1"]
    build_txtdb.main([*common, *words, *flags])
    return TextStore(output)


def joined(texts: TextStore, images: ImageStore) -> PairIndex:
    return PairIndex([Source(texts, images)])


# ---------------------------------------------------------------- both stores


@pytest.mark.parametrize("redundant", [False, True])
@pytest.mark.parametrize("each", [1, 3])
def test_both_programs_find_how_many_captions_an_image_has(tmp_path: Path, each: int, redundant: bool) -> None:
    write_precomputed(tmp_path / "toy", images=30, redundant=redundant, ids_each=None, each=each)
    write_words(tmp_path / "vocab.json")
    index = joined(pack_texts(tmp_path / "toy"), pack_images(tmp_path / "toy"))
    assert index.owner.tolist() == [position // each for position in range(30 * each)]
    assert len(index.images) == 30


def test_both_programs_ask_where_the_files_leave_it_open(tmp_path: Path) -> None:
    write_precomputed(tmp_path / "toy", images=6, each=2, redundant=True, ids_each=None)
    rows = np.load(tmp_path / "toy" / "train_ims.npy", allow_pickle=False)
    rows[4] = rows[3]  # two pictures alike
    np.save(tmp_path / "toy" / "train_ims.npy", rows)
    write_words(tmp_path / "vocab.json")
    for pack in (pack_texts, pack_images):
        with pytest.raises(ConfigError, match=r"12 captions, .* an array of 12 rows and no ids, which do not tell"):
            pack(tmp_path / "toy")
    assert not (tmp_path / "toy.db").exists()
    assert not (tmp_path / "img").exists()
    said = ("--captions_per_image", "1")
    index = joined(pack_texts(tmp_path / "toy", *said), pack_images(tmp_path / "toy", *said))
    assert index.owner.tolist() == list(range(12))


@pytest.mark.parametrize("redundant", [False, True])
@pytest.mark.parametrize("naming", ["{stem}.npz", "{id}.npz"])
def test_positions_are_those_of_the_files(tmp_path: Path, redundant: bool, naming: str) -> None:
    """Also where names sort in another order, as 0, 1, 10 ... do."""
    rows = write_precomputed(tmp_path / "toy", images=120, redundant=redundant, ids_each=5)
    write_words(tmp_path / "vocab.json")
    named = ("--image_naming", naming)
    texts, images = pack_texts(tmp_path / "toy", *named), pack_images(tmp_path / "toy", *named, "--dtype", "float32")
    index = joined(texts, images)
    assert (index.images == images.names) == (naming == "{stem}.npz")
    assert index.images == [naming.format(stem=f"toy_train_{row:07d}", id=row) for row in range(120)]
    assert index.owner.tolist() == [position // 5 for position in range(600)]
    assert index.regions.tolist() == [4] * 120
    for position in range(0, 600, 7):
        record = index.record(position)
        assert (record["raw"], record["position"], record["row"]) == (caption(position), position, position // 5)
        assert record["image_id"] == 1000 - position // 5
    features, boxes = np.empty((480, 6), np.float32), np.ones((480, 7), np.float32)
    index.read_images(range(120), features, boxes)
    assert np.array_equal(features, rows.reshape(480, 6))
    assert (boxes == 0).all()


@pytest.mark.parametrize("limit", [15, 12])
def test_a_limited_split_has_the_first_captions(tmp_path: Path, limit: int) -> None:
    write_precomputed(tmp_path / "toy", "dev", images=6)
    write_words(tmp_path / "vocab.json")
    flags = ("--dev_limit", str(limit))
    images = pack_images(tmp_path / "toy", *flags, split="dev")
    index = joined(pack_texts(tmp_path / "toy", *flags, split="dev"), images)
    assert (len(index.images), len(index.texts)) == (3, limit)
    with pytest.raises(DataError, match="30 captions, fewer than dev_limit 5000"):
        pack_texts(tmp_path / "toy", split="dev", name="whole")


def test_a_limited_text_store_goes_with_a_whole_image_store(tmp_path: Path) -> None:
    write_precomputed(tmp_path / "toy", "dev", images=6)
    write_words(tmp_path / "vocab.json")
    whole = pack_images(tmp_path / "toy", "--dev_limit", "0", split="dev")
    index = joined(pack_texts(tmp_path / "toy", "--dev_limit", "10", split="dev"), whole)
    assert index.images == whole.names[:2]


def test_both_programs_name_images_alike(folder: Path) -> None:
    flags = ("--dataset", "mine", "--image_naming", "{stem}.bin")
    texts, images = pack_texts(folder, *flags), pack_images(folder, *flags)
    assert texts.image_order == images.names
    assert images.names[1] == "mine_train_0000001.bin"


def test_the_checker_accepts_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, images = pack_texts(folder), pack_images(folder)
    capsys.readouterr()
    flags = ["--txt_db", str(texts.folder), "--img_db", str(images.folder), "--workers", "1"]
    assert check_db.main([*flags, "--json"]) == 0
    about_images, about_texts, pair = json.loads(capsys.readouterr().out)
    assert (about_images["count"], about_images["meta"]["has_boxes"], about_images["faults"]) == (12, False, [])
    assert about_images["noted_regions"] == "4 / 4.0 / 4"
    assert (about_texts["special"]["mask"], about_texts["faults"], pair["faults"]) == (None, [], [])
    assert about_texts["tokenizer"].startswith("nltk ")
    assert check_db.main(flags) == 0
    assert "FAULT" not in capsys.readouterr().out


def test_the_checker_finds_damage_without_boxes(folder: Path) -> None:
    images = pack_images(folder)
    path = images.path / "data.mdb"
    content = bytearray(path.read_bytes())
    record = bytes(LmdbStore(images.path).get(images.names[3]))
    images.close()
    content[content.index(record) + 70] ^= 1
    path.write_bytes(content)
    flags = ["--img_db", str(images.folder), "--workers", "2"]
    with pytest.raises(DataError, match="1 fault in"):
        check_db.main(flags)


# ---------------------------------------------------------------- features


def test_half_precision_is_the_default_and_single_is_exact(folder: Path) -> None:
    rows = np.load(folder / "train_ims.npy", allow_pickle=False)
    half = pack_images(folder)
    flags = ["precomp", str(folder), "--split", "train", "--dtype", "float32"]
    build_imgdb.main([*flags, "--output", str(folder.parent / "single")])
    single = ImageStore(folder.parent / "single")
    assert (half.dtype, single.dtype) == (np.float16, np.float32)
    for row, (first, second) in enumerate(zip(half.names, single.names, strict=True)):
        assert np.array_equal(half.read(first).features, rows[row].astype(np.float16))
        assert single.read(second).features.tobytes() == rows[row].tobytes()
    meta = {"features": "precomputed", "dataset": "f30k", "split": ["train"], "has_boxes": False, "keep_all": True}
    assert meta.items() <= single.meta.items()


def test_many_regions_are_not_cut_by_the_usual_thresholds(tmp_path: Path) -> None:
    write_precomputed(tmp_path / "toy", images=2, regions=130)
    assert pack_images(tmp_path / "toy").counts(["toy_train_0000001.npz"]).tolist() == [130]


@pytest.mark.parametrize(("value", "told"), [
    (np.nan, r"f30k_train_0000007\.npz: holds numbers that are not finite"),
    (1e6, r"f30k_train_0000007\.npz: holds numbers too large for float16; keep float32"),
])  # fmt: skip
def test_an_image_that_cannot_be_used_stops_the_packing(folder: Path, value: float, told: str) -> None:
    rows = np.load(folder / "train_ims.npy", allow_pickle=False)
    rows[7, 1, 2] = value
    np.save(folder / "train_ims.npy", rows)
    with pytest.raises(DataError, match=told):
        pack_images(folder)
    assert not (folder.parent / "img" / "train" / "native_all").exists()


def test_names_must_tell_images_apart(folder: Path) -> None:
    write_precomputed(folder, "test", images=2)
    flags = ["precomp", str(folder), "--split", "train", "test", "--output", str(folder.parent / "img")]
    with pytest.raises(ConfigError, match="gives two images one name"):
        build_imgdb.main([*flags, "--image_naming", "{id}.npz"])
    build_imgdb.main(flags)
    assert len(ImageStore(folder.parent / "img").names) == 14


def test_a_stopped_packing_goes_on_where_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by an image that cannot be used, which is then mended."""
    rows = write_precomputed(folder, "test", images=12, seed=1)
    spoiled = rows.copy()
    spoiled[9, 0, 0] = np.nan
    np.save(folder / "test_ims.npy", spoiled)
    flags = ["precomp", str(folder), "--split", "test", "--dtype", "float32"]
    with pytest.raises(DataError, match="not finite"):
        build_imgdb.main([*flags, "--output", str(folder.parent / "broken")])
    partial = folder.parent / "broken" / "native_all.partial"
    assert len((partial / "counts.jsonl").read_text().splitlines()) == 9
    np.save(folder / "test_ims.npy", rows)
    read, whole_read = [], PrecomputedImages.read
    monkeypatch.setattr(PrecomputedImages, "read", lambda images, row: read.append(row) or whole_read(images, row))
    for name in ("broken", "whole"):
        build_imgdb.main([*flags, "--output", str(folder.parent / name)])
    assert read == [9, 10, 11, *range(12)]
    broken, whole = (ImageStore(folder.parent / name) for name in ("broken", "whole"))
    assert contents(broken.path) == contents(whole.path)
    assert broken.meta == whole.meta


def contents(path: Path) -> dict[str, bytes]:
    store = LmdbStore(path)
    return {key: bytes(store.get(key)) for key in store}


@pytest.mark.slow
def test_a_kill_leaves_no_store_and_the_next_run_goes_on(tmp_path: Path) -> None:
    write_precomputed(tmp_path / "toy", images=400, regions=36, width=2048)
    flags = ["precomp", str(tmp_path / "toy"), "--split", "train", "--output", str(tmp_path / "img")]
    with subprocess.Popen([sys.executable, "scripts/build_imgdb.py", *flags], cwd=ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        journal = tmp_path / "img" / "native_all.partial" / "counts.jsonl"
        deadline = time.monotonic() + 60
        while not (journal.exists() and len(journal.read_text().splitlines()) > 20):
            assert time.monotonic() < deadline, "the packer did not begin"
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "img" / "native_all").exists()
    build_imgdb.main(flags)
    store = ImageStore(tmp_path / "img")
    assert len(store.names) == 400
    assert store.damaged(store.names[::40]) == []


# ---------------------------------------------------------------- captions


def test_words_are_those_of_the_vocabulary(folder: Path) -> None:
    store = pack_texts(folder)
    assert store.record(store.ids[1])["toked_caption"] == ["a", "man", "runs", ",", "number", "1", "."]
    assert store.tokens(store.ids[1]).tolist() == [4, 5, 7, 3, 3, 3, 8]
    assert store.vocab_hash == Vocabulary((*SPECIAL_WORDS, *WORDS)).hash
    kept = Vocabulary.load(store.folder / "vocab.json")
    assert kept.hash == store.vocab_hash
    assert (store.special.cls, store.special.sep, store.special.mask) == (1, 2, None)
    index = joined(store, pack_images(folder))
    ids = np.empty(index.words[1], np.int64)
    index.read_texts([1], ids)
    assert ids.tolist() == [1, 4, 5, 7, 3, 3, 3, 8, 2]


def test_no_stored_caption_begins_like_printed_bytes(folder: Path) -> None:
    store = pack_texts(folder)
    for id in store.ids:
        record = store.record(id)
        assert record["toked_caption"][0] == "a"
        assert not record["raw"].startswith(("b'", 'b"'))


def test_published_word_ids_are_taken_as_they_are(folder: Path) -> None:
    store = pack_texts(folder, "--precaps")
    assert [store.tokens(id).tolist() for id in store.ids[:3]] == [[4, 5, 7], [4, 6, 7], [4, 7, 7]]
    assert store.record(store.ids[1])["toked_caption"] == ["a", "dog", "runs"]
    assert store.meta["word_ids"] == "precaps"


def test_new_vocabularies_count_the_given_splits(folder: Path) -> None:
    write_precomputed(folder, "dev", images=3)
    (folder / "dev_caps.txt").write_text("zebras zebras\n" * 15)
    flags = ("--make_words", "--dev_limit", "0")
    alone = pack_texts(folder, *flags, name="alone")
    both = pack_texts(folder, *flags, "--words_splits", "train", "dev", name="both")
    assert "zebras" not in Vocabulary.load(alone.folder / "vocab.json").ids
    assert Vocabulary.load(both.folder / "vocab.json").words[4:7] == (",", ".", "a")
    assert "zebras" in Vocabulary.load(both.folder / "vocab.json").ids
    assert alone.ids == both.ids
    assert Vocabulary.load(pack_texts(folder, "--make_words", "30", name="few").folder / "vocab.json").words[4:] == (
        ",", ".", "a", "number", "runs",
    )  # fmt: skip


def test_other_sources_take_word_lists_too(tmp_path: Path) -> None:
    lines = [{"image_id": f"a_{number}", "split": "train", "captions": ["A Dog runs.", "Two dogs, zebra"],
              "width": 10, "height": 10, "phrases": [[{"start": 1, "end": 3, "boxes": [[0, 0, 5, 5]]}], []]}
             for number in range(4)]  # fmt: skip
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--annotations", str(tmp_path / "captions.jsonl"), "--output", str(tmp_path / "toy.db")]
    build_txtdb.main([*flags, "--make_words", "4", "--workers", "2"])
    store = TextStore(tmp_path / "toy.db")
    first = store.record("0")
    assert first["toked_caption"] == ["a", "dog", "runs", "."]
    assert first["objects"] == [{"words": [1, 2, 3], "boxes": [[0, 0, 0.5, 0.5]]}]
    assert first["image_id"] == 0
    assert store.meta["lower_case"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_equal_captions_make_equal_vocabularies(folder: Path, workers: str) -> None:
    first = pack_texts(folder, "--make_words", name="first")
    second = pack_texts(folder, "--make_words", "4", "--workers", workers, name="second")
    assert (first.folder / "vocab.json").read_bytes() == (second.folder / "vocab.json").read_bytes()
    assert contents(first.folder) == contents(second.folder)


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--words", "{vocab}"], ConfigError, "--precomp needs --split, such as train"),
        (["--split", "train", "--words", "{vocab}", "--make_words"], ConfigError, "give either --vocab FILE"),
        (["--split", "train", "--words", "{vocab}", "--vocab", "v"], ConfigError, "give either --vocab FILE"),
        (["--split", "train"], ConfigError, r"or --words FILE or --make_words \[MIN_COUNT\]"),
        (["--split", "train", "--make_words", "--precaps"], ConfigError, "--precaps needs --words, the vocabulary"),
        (["--split", "train", "--words", "{vocab}", "--words_splits", "dev"], ConfigError, "needs --make_words"),
        (["--split", "train", "--make_words", "0"], ConfigError, "cannot have to occur 0 times"),
        (["--split", "train", "--make_words", "1000"], ConfigError, "occurs 1000 times; give a lower number"),
        (["--split", "test", "--words", "{vocab}"], DataError, r"holds no test_caps\.txt, but captions of train"),
        (["--split", "train", "--words", "nowhere.pkl"], DataError, r"nowhere\.pkl cannot be read"),
        (["--split", "train", "--words", "{vocab}", "--punkt", "nowhere"], DataError, "of a trained Punkt model"),
        (["--split", "train", "--words", "{vocab}", "--annotations", "x"], ConfigError, "or --precomp FOLDER"),
    ],
)
def test_wrong_flags_are_refused(folder: Path, flags: list[str], error: type[Exception], message: str) -> None:
    vocab, output = folder.parent / "vocab.json", folder.parent / "toy.db"
    given = [str(vocab) if flag == "{vocab}" else flag for flag in flags]
    with pytest.raises(error, match=message):
        build_txtdb.main(["--precomp", str(folder), *given, "--output", str(output)])
    assert not output.exists()


def test_word_ids_need_the_folder_that_holds_them(folder: Path) -> None:
    flags = ["--annotations", "x.jsonl", "--precaps", "--words", str(folder.parent / "vocab.json")]
    with pytest.raises(ConfigError, match="--precaps needs --precomp, the folder with the file"):
        build_txtdb.main([*flags, "--output", str(folder.parent / "toy.db")])


def test_as_a_program_errors_are_one_line_with_an_exit_code(folder: Path) -> None:
    (folder / "train_caps.txt").write_text("A dog .\n" * 7)
    flags = ["precomp", str(folder), "--split", "train", "--output", str(folder.parent / "img")]
    done = subprocess.run([sys.executable, "scripts/build_imgdb.py", *flags], cwd=ROOT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "train_caps.txt has 7 captions, but there are 12 rows of its array" in done.stderr
