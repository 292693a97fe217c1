"""Extractor folders and pictures to image stores through the program: broken files, kills, whiteners."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.errors import ConfigError, DataError
from data.records.phrases import read_objects
from data.records.regions import RegionRule
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from data.stores.text_store import TextStore
from scripts import build_txtdb
from scripts.build_imgdb import main
from tests.arrays import extracted, write_npz_folder

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    store = LmdbStore(folder)
    return {key: bytes(store.get(key)) for key in store}


# ---------------------------------------------------------------- npz


def test_packs_a_folder_and_names_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_npz_folder(tmp_path / "raw")
    (tmp_path / "raw" / "empty.npz").touch()
    np.savez(tmp_path / "raw" / "half.npz", allow_pickle=False, features=np.zeros((3, 8)))
    main(["npz", str(tmp_path / "raw"), "--output", str(tmp_path / "img"), "--workers", "1"])
    said = capsys.readouterr()
    assert said.out == f"6 images in {tmp_path / 'img'}, 2 left out\n"
    assert "empty.npz left out: is not an archive" in said.err
    assert "half.npz left out: holds no norm_bb and no conf, but features" in said.err
    store = ImageStore(tmp_path / "img")
    assert store.names == names
    assert store.damaged(names) == []
    assert store.meta["features"] == "npz"


@pytest.mark.parametrize("codec", ["native", "published", "compressed"])
def test_processes_do_not_change_the_store(tmp_path: Path, codec: str) -> None:
    write_npz_folder(tmp_path / "raw", 12)
    flags = ["npz", str(tmp_path / "raw"), "--codec", codec, "--conf_th", "0.5", "--max_bb", "9", "--min_bb", "3"]
    for workers in ("1", "2"):
        main([*flags, "--output", str(tmp_path / workers), "--workers", workers])
    rule = RegionRule(0.5, 9, 3, compressed=codec == "compressed")
    first, second = (ImageStore(tmp_path / workers, rule) for workers in ("1", "2"))
    assert contents(first.path) == contents(second.path)


def test_fixed_numbers_and_whole_images(tmp_path: Path) -> None:
    write_npz_folder(tmp_path / "raw")
    flags = ["npz", str(tmp_path / "raw"), "--output", str(tmp_path / "img"), "--codec", "published", "--workers", "1"]
    main([*flags, "--conf_th", "-1", "--num_bb", "5"])
    main([*flags, "--keep_all"])
    assert sorted(path.name for path in (tmp_path / "img").iterdir()) == ["all", "feat_numbb5", "nbb.json"]


def test_when_nothing_can_be_packed_there_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "empty.npz").touch()
    with pytest.raises(DataError, match="none of 1 inputs could be packed"):
        main(["npz", str(tmp_path / "raw"), "--output", str(tmp_path / "img"), "--workers", "1"])
    with pytest.raises(DataError, match="holds no image store"):
        ImageStore(tmp_path / "img")


def test_killed_and_started_again_gives_the_same_store(tmp_path: Path) -> None:
    """Killed while many files are still to be read: the first of them is a pipe that nobody writes into."""
    names = write_npz_folder(tmp_path / "raw", 30)
    last = tmp_path / "raw" / names[-1]
    kept = last.rename(tmp_path / "kept.npz")
    os.mkfifo(last)
    flags = ["npz", str(tmp_path / "raw"), "--workers", "1"]
    program = [sys.executable, "scripts/build_imgdb.py", *flags, "--output", str(tmp_path / "broken")]
    with subprocess.Popen(program, cwd=ROOT, stderr=subprocess.PIPE) as process:
        journal = tmp_path / "broken" / "native_th0.2_max100_min10.partial" / "counts.jsonl"
        deadline = time.monotonic() + 30
        while not (journal.exists() and len(journal.read_text().splitlines()) == 29):
            assert time.monotonic() < deadline, "the packer did not come to the last file"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "broken" / "native_th0.2_max100_min10").exists()
    last.unlink()
    kept.rename(last)
    for name in ("broken", "whole"):
        main([*flags, "--output", str(tmp_path / name)])
    broken, whole = ImageStore(tmp_path / "broken"), ImageStore(tmp_path / "whole")
    assert contents(broken.path) == contents(whole.path)
    assert broken.counts(names).tolist() == whole.counts(names).tolist()
    assert broken.meta == whole.meta


def test_a_finished_store_is_not_packed_again(tmp_path: Path) -> None:
    write_npz_folder(tmp_path / "raw")
    flags = ["npz", str(tmp_path / "raw"), "--output", str(tmp_path / "img"), "--workers", "1"]
    main(flags)
    with pytest.raises(DataError, match="exists; remove it"):
        main(flags)


def test_the_images_are_those_of_the_extractor(tmp_path: Path) -> None:
    names = write_npz_folder(tmp_path / "raw", dtype=np.float32)
    main(["npz", str(tmp_path / "raw"), "--output", str(tmp_path / "img"), "--workers", "1"])
    got = ImageStore(tmp_path / "img").read(names[3]).features
    assert np.array_equal(got, extracted(3, dtype=np.float32)["features"][: len(got)].astype(np.float16))


# ---------------------------------------------------------------- pictures


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures with captions for two splits, one broken, one missing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        (folder / f"p{number}.jpg").write_bytes(picture(number) if number != 4 else picture(4)[:300])
    lines = [
        {"image_id": f"p{number}", "split": "val" if number in (1, 5, 7) else "train", "captions": []}
        for number in (0, 1, 2, 3, 4, 5, 7)
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def pack(pictures: Path, split: str, *flags: str) -> Path:
    output = pictures.parent / split
    captions = ["--captions", str(pictures.parent / "captions.jsonl"), "--split", split, "--workers", "1"]
    main(["jpeg", str(pictures), *captions, "--output", str(output), "--img_dim", "8", *flags])
    return output


def test_packs_a_split_of_pictures(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ImageStore(pack(pictures, "train"))
    said = capsys.readouterr()
    assert store.names == ["p0.npz", "p2.npz", "p3.npz"]
    assert "3 images" in said.out
    assert "1 left out" in said.out
    assert "p4.npz" in said.err
    assert store.dim == 8
    assert store.meta["features"] == "histogram-pca"
    first = store.read("p0.npz")
    assert 10 <= len(first.features) <= 36
    assert np.allclose(first.boxes[0], [0, 0, 1, 1, 1, 1, 1])


def test_other_splits_use_the_whitener_of_the_training_split(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ImageStore(pack(pictures, "train"))
    val = ImageStore(pack(pictures, "val", "--whitener", str(train.path / "whitener.npz")))
    assert val.names == ["p1.npz", "p5.npz"]
    assert (val.path / "whitener.npz").read_bytes() == (train.path / "whitener.npz").read_bytes()
    assert "p7.npz left out" in capsys.readouterr().err


def test_tar_archives_and_processes_give_the_same_store(pictures: Path, tmp_path: Path) -> None:
    (pictures / "p4.jpg").unlink()
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        for path in sorted(pictures.iterdir()):
            archive.add(path, path.name)
    flags = ["--img_dim", "8"]
    main(["jpeg", str(pictures), "--output", str(tmp_path / "one"), "--workers", "1", *flags])
    main(["jpeg", str(tmp_path / "pictures.tar"), "--output", str(tmp_path / "two"), "--workers", "2", *flags])
    assert contents(ImageStore(tmp_path / "one").path) == contents(ImageStore(tmp_path / "two").path)


def test_pictures_of_one_name_are_refused(pictures: Path, tmp_path: Path) -> None:
    (pictures / "deeper").mkdir()
    (pictures / "deeper" / "p0.png").write_bytes(picture(0))
    with pytest.raises(DataError, match=r"deeper/p0\.png and p0\.jpg would both be p0\.npz"):
        pack(pictures, "train")


def test_pictures_that_cannot_be_fitted_on_are_told_and_packed_with_the_flag(pictures: Path, tmp_path: Path) -> None:
    for path in pictures.iterdir():
        path.unlink()
    shades = np.linspace(0, 1, 96 * 72, dtype=np.float32).reshape(72, 96)
    for number in range(2):
        Image.fromarray(np.roll(shades, number)).save(pictures / f"p{number}.tif")
    flags = ["jpeg", str(pictures), "--output", str(tmp_path / "x"), "--workers", "1", "--img_dim", "8"]
    with pytest.raises(DataError, match=r"got 0; 2 pictures cannot be used, such as p0\.npz holds .* 0 1$"):
        main(flags)
    main([*flags, "--float_range", "0", "1"])
    assert ImageStore(tmp_path / "x").names == ["p0.npz", "p1.npz"]


def test_a_split_needs_the_captions(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--split needs --captions"):
        main(["jpeg", str(pictures), "--output", str(tmp_path / "x"), "--split", "train"])


# ---------------------------------------------------------------- annotated boxes

WHOLE, CORNER, SIDE = [0, 0, 96, 72], [0, 0, 24, 18], [48, 9, 96, 63]


def annotate(pictures: Path, phrases: dict[str, list[list[list[float]]]]) -> Path:
    """A captions file with one caption a phrase, each phrase with its boxes; pictures are 96 x 72."""
    path = pictures.parent / "annotated.jsonl"
    with path.open("w") as file:
        for name, boxes in phrases.items():
            row = {
                "image_id": name, "split": "test", "width": 96, "height": 72, "captions": ["A dog ."] * len(boxes),
                "phrases": [[{"start": 0, "end": 2, "boxes": of_phrase}] for of_phrase in boxes],
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


def pack_boxes(pictures: Path, captions: Path, name: str, *flags: str) -> Path:
    output = pictures.parent / name
    given = ["--captions", str(captions), "--annotated_boxes", "--keep_all", "--img_dim", "6", "--workers", "1"]
    main(["jpeg", str(pictures), *given, "--output", str(output), *flags])
    return output


def test_annotated_boxes_are_the_regions(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = {name: [[WHOLE]] for name in ("p2", "p4", "p9")}
    captions = annotate(pictures, {"p0": [[SIDE, CORNER], [], [WHOLE, SIDE]], "p1": [[]], **alone})
    store = ImageStore(pack_boxes(pictures, captions, "boxes"))
    said = capsys.readouterr()
    assert store.names == ["p0.npz", "p2.npz"]
    assert store.counts(store.names).tolist() == [3, 1]
    expected = np.array([[0.5, 0.125, 1, 0.875], [0, 0, 0.25, 0.25], [0, 0, 1, 1]])
    assert np.array_equal(store.read("p0.npz").boxes[:, :4], expected)
    assert store.meta["boxes"] == "annotated"
    assert store.meta["annotations"] == ["annotated.jsonl"]
    assert "p1.npz left out: no phrase of its captions has a box" in said.err
    assert "p4.npz left out: " in said.err
    assert "p9.npz left out: " in said.err
    assert said.out == f"2 images in {pictures.parent / 'boxes'}, 3 left out\n"


def test_a_region_is_described_as_on_the_grid(pictures: Path) -> None:
    """The whole picture is the first box of the grid: the same whitener gives the same features."""
    train = ImageStore(pack(pictures, "train"))
    captions = annotate(pictures, {"p0": [[CORNER, WHOLE]]})
    store = ImageStore(pack_boxes(pictures, captions, "boxes", "--whitener", str(train.path / "whitener.npz")))
    assert np.array_equal(store.read("p0.npz").features[1], train.read("p0.npz").features[0])


def test_captions_find_their_objects_in_the_store(pictures: Path) -> None:
    captions = annotate(pictures, {"p0": [[SIDE], [CORNER, [3, 3, 4, 5]]], "p3": [[[1.5, 7.1, 2.2, 8.3]]]})
    images = ImageStore(pack_boxes(pictures, captions, "boxes"))
    texts = pictures.parent / "texts.db"
    flags = ["--annotations", str(captions), "--make_vocab", "400", "--output", str(texts), "--workers", "1"]
    build_txtdb.main(flags)
    store = TextStore(texts)
    found = [
        read_objects(store.record(id), images.read(name).boxes, f"caption {id}")
        for id, name in zip(store.ids, store.images, strict=True)
    ]
    assert [objects.regions.tolist() for objects in found if objects] == [[[0]], [[1, 2]], [[0]]]


def test_entities_give_the_same_store_as_json_lines(pictures: Path, tmp_path: Path) -> None:
    captions = annotate(pictures, {"p0": [[SIDE], [CORNER]], "p2": [[SIDE], [CORNER]]})
    folder = tmp_path / "entities"
    boxes = "".join(
        f"<object><name>{number}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for number, (x1, y1, x2, y2) in enumerate([SIDE, CORNER], start=1)
    )
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True)
    for name in ("p0", "p2", "p3"):
        (folder / "Sentences" / f"{name}.txt").write_text("[/EN#1/a A dog] .\n[/EN#2/a A dog] .\n")
        xml = f"<annotation><size><width>96</width><height>72</height></size>{boxes}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(xml)
    (tmp_path / "list.txt").write_text("p0\np2\n")
    flags = ["--annotated_boxes", "--keep_all", "--img_dim", "2", "--workers", "2", "--output", str(tmp_path / "two")]
    main(["jpeg", str(pictures), "--entities", str(folder), "--images", str(tmp_path / "list.txt"), *flags])
    one, two = ImageStore(pack_boxes(pictures, captions, "one", "--img_dim", "2")), ImageStore(tmp_path / "two")
    assert contents(one.path) == contents(two.path)
    assert two.meta["annotations"] == ["entities", "list.txt"]


def test_pictures_that_were_not_annotated_so_are_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = annotate(pictures, {"p0": [[SIDE]], "p2": [[CORNER, SIDE]]})
    (pictures / "p2.jpg").write_bytes(picture(2, (72, 96)))
    assert ImageStore(pack_boxes(pictures, captions, "boxes", "--img_dim", "2", *fitted(pictures))).names == ["p0.npz"]
    assert "p2.npz left out: p2.npz is 72 x 96 here and 96 x 72 in its annotation; give" in capsys.readouterr().err


def fitted(pictures: Path) -> list[str]:
    return ["--whitener", str(ImageStore(pack(pictures, "train")).path / "whitener.npz")]


def test_annotated_boxes_that_do_not_fit_stop_the_packing(pictures: Path) -> None:
    captions = annotate(pictures, {"p0": [[SIDE], [[0, 0, 97, 5]]]})
    with pytest.raises(DataError, match=r"caption 1 of p0, phrase 0: box .* outside the picture of 96 x 72"):
        pack_boxes(pictures, captions, "boxes")
    assert not (pictures.parent / "boxes").exists()


def test_captions_without_any_box_are_refused(pictures: Path) -> None:
    with pytest.raises(DataError, match=r"captions\.jsonl: no caption has a phrase with a box; give annotated"):
        pack_boxes(pictures, pictures.parent / "captions.jsonl", "boxes")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--annotated_boxes", "--captions", "x"], "--annotated_boxes needs --keep_all"),
        (["--annotated_boxes", "--keep_all"], "--annotated_boxes needs --captions FILE or --entities FOLDER"),
        (["--captions", "x", "--entities", "y"], "give either --captions FILE or --entities FOLDER"),
        (["--images", "x"], "--images needs --entities"),
        (["--fit_on", "0"], "--fit_on 0: give 1 or more"),
        (["--img_dim", "0"], "--img_dim 0: give 1 or more"),
        (["--max_regions", "-1"], "--max_regions -1: give 1 or more"),
        (["--max_pixels", "0"], "--max_pixels 0: give 1 or more"),
        (["--float_range", "1", "0"], "--float_range 1 0: give black, then white"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(pictures: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["jpeg", str(pictures), "--output", str(pictures.parent / "x"), *flags])
    assert not (pictures.parent / "x").exists()
