"""Pictures themselves to stores through the program: which are wanted, names, sizes, broken files, wrong flags."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError, DataError
from data.records.pixels import decode
from data.source.picture_selection import Picture
from data.stores.lmdb_store import LmdbStore
from data.stores.picture_store import PictureView
from data.stores.text_store import TextStore
from scripts import build_txtdb
from scripts.build_imgdb import main
from scripts.building import pictures as module
from scripts.building.packing import Packed
from tests.drawn import drawn, encoded

COCO = "COCO_{}_{:012d}"


def picture(number: int) -> bytes:
    return encoded(drawn(number, 90, 60))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """p0 to p4, the last of them broken; p5 is only spoken of."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        (folder / f"p{number}.jpg").write_bytes(picture(number)[: 300 if number == 4 else None])
    lines = [{"image_id": f"p{n}", "split": "val" if n == 1 else "train", "captions": ["A dog ."]} for n in range(6)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def pack(source: Path, name: str, *flags: str | Path, workers: int = 1) -> Path:
    output = source.parent / name
    main(["pictures", str(source), "--output", str(output), "--workers", str(workers), *map(str, flags)])
    return output


def contents(folder: Path) -> dict[str, bytes]:
    store = LmdbStore(folder / "pictures")
    return {key: bytes(store.get(key)) for key in store}


def test_packs_a_split_and_names_what_it_leaves_out(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = pack(pictures, "train", "--captions", pictures.parent / "captions.jsonl", "--split", "train")
    said = capsys.readouterr()
    assert said.out == f"3 pictures in {output}, 2 left out\n"
    assert "p4.npz left out: cannot be read as a picture" in said.err
    assert f"p5.npz left out: {pictures} holds no such picture" in said.err
    store = PictureView(8).open(output)
    assert store.names == ["p0.npz", "p2.npz", "p3.npz"]
    assert [store.stored(name).data for name in store.names] == [picture(number) for number in (0, 2, 3)]
    assert {name: store.meta[name] for name in ("source", "listed_in", "split", "image_naming", "short_side")} == {
        "source": "pictures", "listed_in": ["captions.jsonl"], "split": ["train"], "image_naming": "{stem}.npz",
        "short_side": None,
    }  # fmt: skip


def test_archives_and_processes_give_the_same_store(pictures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        for path in sorted(pictures.iterdir()):
            archive.add(path, f"inside/{path.name}")
    one, two = pack(pictures, "one"), pack(tmp_path / "pictures.tar", "two", workers=2)
    assert contents(one) == contents(two)
    assert len(contents(one)) == 5


def test_large_pictures_become_smaller_jpegs_if_asked(pictures: Path) -> None:
    (pictures / "small.png").write_bytes(encoded(drawn(9, 25, 20), "PNG"))
    store = PictureView(8).open(pack(pictures, "small", "--short_side", "30", "--quality", "80"))
    assert {name: decode(store.stored(name).data).size for name in store.names} == {
        **{f"p{number}.npz": (45, 30) for number in range(4)}, "small.npz": (25, 20),
    }  # fmt: skip
    assert store.stored("small.npz").data == encoded(drawn(9, 25, 20), "PNG")
    assert (store.meta["short_side"], store.meta["quality"]) == (30, 80)


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("each", [1, 5])
@pytest.mark.parametrize("inside", ["", "flickr30k-images"])
def test_ids_and_their_names_join_with_the_text_store(tmp_path: Path, each: int, inside: str) -> None:
    """The map names a folder that may be there or not; ids come once an image, or once a caption."""
    (tmp_path / "files" / inside).mkdir(parents=True)
    for number in range(3):
        (tmp_path / "files" / inside / f"10{number}.jpg").write_bytes(picture(number))
    (tmp_path / "id_mapping.json").write_text(json.dumps({str(n): f"flickr30k-images/10{n}.jpg" for n in range(3)}))
    (tmp_path / "train_ids.txt").write_text("".join(f"{number}\n" * each for number in (2, 0)))
    (tmp_path / "train_caps.txt").write_text("A dog .\n" * 10)
    listed = ["--ids", tmp_path / "train_ids.txt", "--id_names", tmp_path / "id_mapping.json"]
    store = PictureView(8).open(pack(tmp_path / "files", "train", *listed))
    flags = [*listed, "--captions", tmp_path / "train_caps.txt", "--make_vocab", 300, "--workers", 1]
    build_txtdb.main([*map(str, flags), "--output", str(tmp_path / "train.db")])
    texts = TextStore(tmp_path / "train.db")
    assert texts.image_order == ["102.npz", "100.npz"]
    assert store.names == sorted(texts.image_order)
    assert store.stored("102.npz").data == picture(2)
    assert len(texts) == 10


def test_ids_alone_are_numbers_at_the_end_of_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, split in ((57870, "train2014"), (42, "val2014"), (7, "val2014")):
        (tmp_path / "coco" / split).mkdir(parents=True, exist_ok=True)
        (tmp_path / "coco" / split / f"{COCO.format(split, number)}.jpg").write_bytes(picture(number))
    (tmp_path / "ids.txt").write_text("57870\n42\n99\n")
    store = PictureView(8).open(pack(tmp_path / "coco", "test", "--ids", tmp_path / "ids.txt"))
    assert store.names == ["42.npz", "57870.npz"]
    assert store.stored("42.npz").data == picture(42)
    assert "99.npz left out" in capsys.readouterr().err


# ---------------------------------------------------------------- stopping and going on


def test_broken_off_and_started_again_gives_the_same_store(
    pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = module.encode_one, []

    def break_off(picture: Picture, **named: Any) -> Packed:
        calls.append(picture.name)
        if calls.count(picture.name) < 2 and picture.name == "p2.npz":
            raise KeyboardInterrupt
        return whole(picture, **named)

    monkeypatch.setattr(module, "encode_one", break_off)
    with pytest.raises(KeyboardInterrupt):
        pack(pictures, "broken")
    assert not (pictures.parent / "broken" / "pictures").exists()
    with pytest.raises(DataError, match="was begun with another quality; remove it or use the same"):
        pack(pictures, "broken", "--short_side", "9")
    pack(pictures, "broken")
    assert calls == [f"p{number}.npz" for number in (0, 1, 2, 2, 3, 4)]
    assert capsys.readouterr().out.startswith("4 pictures in ")
    assert contents(pictures.parent / "broken") == contents(pack(pictures, "whole"))


def test_a_run_with_other_options_does_not_go_on(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "p0.jpg").touch()
    with pytest.raises(DataError, match="none of 1 inputs could be packed"):
        pack(tmp_path / "empty", "out")
    (tmp_path / "empty" / "p0.jpg").write_bytes(picture(0))
    pack(tmp_path / "empty", "out", "--short_side", "9")  # nothing was packed with those before
    assert json.loads((tmp_path / "out" / "pictures" / "meta.json").read_text())["quality"] == 90
    pack(pictures, "done")
    with pytest.raises(DataError, match="pictures exists; remove it"):
        pack(pictures, "done")


# ---------------------------------------------------------------- wrong flags


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ids", "a", "--captions", "b"], "give either --captions FILE or --ids FILE"),
        (["--ids", "a", "--entities", "b"], "give either --entities FOLDER or --ids FILE"),
        (["--id_names", "a"], "--id_names needs --ids"),
        (["--images", "a"], "--images needs --entities"),
        (["--split", "train"], "--split needs --captions"),
        (["--quality", "80"], "--quality needs --short_side"),
        (["--short_side", "0"], "--short_side 0, --quality 90: give at least 1"),
        (["--short_side", "9", "--quality", "101"], "--quality 101: give .* 1 to 100"),
        (["--image_naming", "all.npz"], r"gives \w+ and \w+ one name, all\.npz; use \{stem\}"),
    ],
)
def test_wrong_flags_are_refused(pictures: Path, flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pack(pictures, "out", *flags)
    assert not (pictures.parent / "out").exists()


def test_ids_that_cannot_be_named_are_refused(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("1\n2\n")
    (tmp_path / "names.json").write_text('{"1": "p1.jpg"}')
    with pytest.raises(DataError, match=r"names\.json names no picture for id 2"):
        pack(pictures, "out", "--ids", tmp_path / "ids.txt", "--id_names", tmp_path / "names.json")
    with pytest.raises(DataError, match=r"gone\.txt is missing"):
        pack(pictures, "out", "--ids", tmp_path / "gone.txt")
