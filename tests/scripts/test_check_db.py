"""Stores are described, verified record by record, and checked against each other."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from config.errors import ConfigError, DataError
from data.records.codec import StoredPicture, encode_picture
from data.stores.text_store import TextStore, TextWriter
from scripts.check_db import main
from tests.arrays import FLICKR, write_image_store
from tests.drawn import drawn, encoded, write_picture_store

ROOT = Path(__file__).parents[2]
META = {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 50], "vocab_hash": "abc", "tokenizer": "vocab.txt"}


def write_texts(folder: Path, images: int = 6, vocab_hash: str = "abc") -> Path:
    with TextWriter(folder, {**META, "vocab_hash": vocab_hash}) as writer:
        for number in range(2 * images):
            writer.add(str(number), {"input_ids": [5, 6, 7][: 1 + number % 3], "img_fname": FLICKR.format(number // 2)})
    return folder


def flip(folder: Path, key: str) -> None:
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as writer:
        record = bytearray(writer.get(key.encode()))
        record[len(record) // 2] ^= 1
        writer.put(key.encode(), bytes(record))
    (folder / "seal.json").unlink()


@pytest.fixture
def stores(tmp_path: Path) -> list[str]:
    write_image_store(tmp_path / "img")
    return ["--txt_db", str(write_texts(tmp_path / "toy.db")), "--img_db", str(tmp_path / "img"), "--workers", "1"]


def test_good_stores_are_described(stores: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(stores) == 0
    said = capsys.readouterr().out
    for line in ("layout: native", "count: 6", "count: 12", "words: 1 / 2.0 / 3", "tokenizer: vocab.txt",
                 "captions_an_image: 2 / 2.0 / 2", "feature_width: 8", "feature_type: float16", "has_boxes: True",
                 "images_without_captions: 0"):  # fmt: skip
        assert line in said
    assert "FAULT" not in said


def test_json_holds_the_same(stores: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*stores, "--json"])
    images, texts, pair = json.loads(capsys.readouterr().out)
    assert (images["count"], texts["count"], pair["faults"]) == (6, 12, [])
    assert images["meta"]["codec"] == "native"
    assert texts["special"] == {"cls": 2, "sep": 3, "mask": 4, "v_range": [5, 50]}


def test_damaged_records_of_both_kinds_are_listed(
    stores: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(tmp_path / "img" / "native_th0.2_max100_min10", FLICKR.format(3))
    flip(tmp_path / "toy.db", "4")
    with pytest.raises(DataError, match="2 faults"):
        main([*stores, "--workers", "2"])
    said = capsys.readouterr().out
    assert f"FAULT {FLICKR.format(3)}: " in said
    assert "FAULT 4: " in said


def test_inspecting_reads_no_record(stores: list[str], tmp_path: Path) -> None:
    flip(tmp_path / "img" / "native_th0.2_max100_min10", FLICKR.format(3))
    assert main([*stores, "--inspect"]) == 0


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    write_picture_store(tmp_path / "seen", [FLICKR.format(number) for number in range(6)])
    return ["--txt_db", str(write_texts(tmp_path / "seen.db")), "--img_db", str(tmp_path / "seen"), "--workers", "1"]


def test_pictures_are_checked_where_there_is_nothing_else(
    pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pictures) == 0
    said = capsys.readouterr().out
    for line in ("seen/pictures\n", "count: 6", f"first_picture: {FLICKR.format(0)}, 60 x 40, ", '"kind": "pictures"',
                 "variants: ['pictures']", "images_without_captions: 0"):  # fmt: skip
        assert line in said
    assert "FAULT" not in said


def test_beside_regions_pictures_are_asked_for(
    pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image_store(tmp_path / "seen")
    assert main(pictures) == 0
    assert "layout: native" in capsys.readouterr().out
    assert main([*pictures, "--pictures"]) == 0
    assert "first_picture: " in capsys.readouterr().out
    with pytest.raises(DataError, match="img holds no pictures"):
        main(["--img_db", str(tmp_path / "img"), "--pictures"])
    write_picture_store(tmp_path / "empty", [])
    with pytest.raises(DataError, match="pictures holds no picture; pack it again"):
        main(["--img_db", str(tmp_path / "empty")])


def test_pictures_are_decoded_whatever_their_checksum_says(
    pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = StoredPicture(encoded(drawn(0))[:-50], 40, 60)
    with lmdb.open(str(tmp_path / "seen" / "pictures"), map_size=1 << 24) as environment:
        with environment.begin(write=True) as writer:
            writer.put(FLICKR.format(2).encode(), encode_picture(cut))
        with environment.begin(write=True) as writer:
            writer.delete(FLICKR.format(5).encode())
    (tmp_path / "seen" / "pictures" / "seal.json").unlink()
    with pytest.raises(DataError, match="2 faults"):
        main([*pictures, "--workers", "2"])
    said = capsys.readouterr().out
    assert f"FAULT {FLICKR.format(2)}: " in said
    assert "cannot be read as a picture" in said
    assert f"FAULT {FLICKR.format(5)}: " in said
    assert main([*pictures, "--inspect"]) == 0


def test_captions_of_missing_images_are_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image_store(tmp_path / "img", images=4)
    texts = write_texts(tmp_path / "toy.db", images=5)
    with pytest.raises(DataError, match="1 fault in"):
        main(["--txt_db", str(texts), "--img_db", str(tmp_path / "img"), "--workers", "1"])
    assert f"FAULT {FLICKR.format(4)}: has captions but is not in the image store" in capsys.readouterr().out


def test_images_without_captions_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image_store(tmp_path / "img", images=6)
    texts = write_texts(tmp_path / "toy.db", images=5)
    assert main(["--txt_db", str(texts), "--img_db", str(tmp_path / "img"), "--workers", "1"]) == 0
    assert "images_without_captions: 1" in capsys.readouterr().out


def test_images_that_are_listed_twice_are_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_image_store(tmp_path / "img")
    path = tmp_path / "img" / "native_th0.2_max100_min10"
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as writer:
        writer.put(b"__keys__", json.dumps([*names, names[1]]).encode())
    (path / "seal.json").unlink()
    with pytest.raises(DataError, match="1 fault"):
        main(["--img_db", str(tmp_path / "img"), "--workers", "1"])
    assert f"FAULT {names[1]}: stands 2 times in the store's list" in capsys.readouterr().out


def test_a_store_without_captions_is_no_good_one(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "toy.db", images=0)
    with pytest.raises(DataError, match=r"toy\.db holds no caption; pack it again"):
        main(["--txt_db", str(texts)])


def test_without_workers_this_process_does_it(stores: list[str]) -> None:
    assert main([*stores[:-1], "0"]) == 0


def test_two_vocabularies_are_a_fault(tmp_path: Path) -> None:
    first, second = write_texts(tmp_path / "a.db"), write_texts(tmp_path / "b.db", vocab_hash="xyz")
    with pytest.raises(DataError, match="2 faults"):
        main(["--txt_db", str(first), str(second), "--workers", "1"])


def test_wrong_flags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --txt_db"):
        main([])
    with pytest.raises(ConfigError, match="give one for each"):
        main(["--txt_db", "a", "b", "--img_db", "c"])


def test_as_a_program_faults_leave_with_3(stores: list[str], tmp_path: Path) -> None:
    program = [sys.executable, "scripts/check_db.py", *stores]
    assert subprocess.run(program, cwd=ROOT, capture_output=True, check=False).returncode == 0
    flip(tmp_path / "toy.db", "4")
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines() == ["check_db.py: 1 fault in 3 checks, listed above"]


def test_thresholds_that_are_not_there_list_those_that_are(tmp_path: Path) -> None:
    write_image_store(tmp_path / "img")
    with pytest.raises(DataError, match=r"but native_th0\.2_max100_min10"):
        main(["--img_db", str(tmp_path / "img"), "--conf_th", "0.5"])


def test_a_vocabulary_that_is_another_one_is_a_fault(
    stores: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.db" / "vocab.txt"
    meta = tmp_path / "toy.db" / "meta.json"
    store = TextStore(tmp_path / "toy.db")
    vocabulary = b"[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\n"
    (tmp_path / "toy.db" / "seal.json").unlink(missing_ok=True)
    meta.write_text(json.dumps(store.meta | {"vocab_hash": hashlib.sha256(vocabulary).hexdigest()}))
    path.write_bytes(vocabulary)
    assert main(stores) == 0
    path.write_bytes(vocabulary[::-1])
    with pytest.raises(DataError, match="1 fault in 3 checks"):
        main(stores)
    assert "FAULT vocab.txt: is not the vocabulary that the captions were written with" in capsys.readouterr().out
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="1 fault in 3 checks"):
        main(stores)
