"""The whole set through the program: layout, annotation, stores, same bytes again, kills, and wrong flags."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import ConfigError, DataError
from data.source.jpeg import Whitener, describe, read_picture
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from data.stores.picture_store import PictureView
from data.stores.text_store import TextStore
from scripts import make_scenes
from scripts.scenes import shard
from scripts.scenes.detect import RULE

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 12, "val": 4, "test": 6}


def make(output: Path, *flags: str) -> int:
    counts = [text for split, count in COUNTS.items() for text in (f"--{split}", str(count))]
    return make_scenes.main(["--output", str(output), *counts, "--img_dim", "16", "--workers", "1", *flags])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "scenes"
    assert make(output) == 0
    return output


@pytest.fixture(scope="module")
def rows(scenes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (scenes / "captions.jsonl").read_text().splitlines()]


def contents(output: Path) -> dict[str, bytes]:
    """Every file of a set by its path, and every record of its stores."""
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for name in [name for name in found if name.endswith("seal.json")]:
        found[name] = json.dumps(json.loads(found[name])["files"]).encode()  # how the records lie may differ
    for name in [name for name in found if name.endswith("data.mdb")]:
        del found[name]
        store = LmdbStore((output / name).parent)
        found |= {f"{name}:{key}": bytes(store.get(key)) for key in store.keys()}  # noqa: SIM118
    return found


def test_layout_and_counts(scenes: Path, rows: list[dict[str, Any]]) -> None:
    there = {path.name for path in scenes.iterdir()}
    assert there == {"pictures", "captions.jsonl", "vocab.txt", "scenes.json", "img_db", "txt_db"}
    for split, count in COUNTS.items():
        assert len(list((scenes / "pictures" / split).iterdir())) == count
        assert [row["split"] for row in rows].count(split) == count
    assert len({row["image_id"] for row in rows}) == len(rows) == sum(COUNTS.values())
    assert not list(scenes.rglob("*.partial"))
    assert not list(scenes.parent.glob("*.partial"))


def test_stores_hold_every_scene_and_caption(scenes: Path, rows: list[dict[str, Any]]) -> None:
    for split in COUNTS:
        images = ImageStore(scenes / "img_db" / split, RULE)
        texts = TextStore(scenes / "txt_db" / f"itm_scenes_{split}.db")
        of_split = [row for row in rows if row["split"] == split]
        names = [row["image_id"] + ".npz" for row in of_split]
        assert images.names == texts.image_order == names
        assert images.dim == 16
        assert images.damaged(names) == []
        assert images.meta["features"] == "scenes"
        assert (images.counts(names) >= 2).all()
        assert [texts.record(id)["raw"] for id in texts.ids] == [text for row in of_split for text in row["captions"]]
        assert texts.vocab_hash is not None


def test_pictures_lie_beside_the_regions(scenes: Path, rows: list[dict[str, Any]]) -> None:
    for split in COUNTS:
        store = PictureView(8).open(scenes / "img_db" / split)
        of_split = {row["image_id"] + ".npz": row for row in rows if row["split"] == split}
        assert store.names == list(of_split)
        assert all(store.stored(name).data == (scenes / "pictures" / row["file"]).read_bytes()
                   for name, row in of_split.items())  # fmt: skip


def test_a_set_without_picture_stores_is_given_them(scenes: Path, tmp_path: Path) -> None:
    older = shutil.copytree(scenes, tmp_path / "scenes")
    for split in COUNTS:
        shutil.rmtree(older / "img_db" / split / "pictures")
    assert make(older) == 0
    assert contents(older) == contents(scenes)


@pytest.mark.parametrize(
    ("spoil", "said"), [(Path.unlink, "is missing"), (lambda path: path.write_bytes(b"x"), "cannot be read")]
)
def test_a_set_that_lost_a_picture_is_not_given_them(scenes: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    older = shutil.copytree(scenes, tmp_path / "scenes")
    shutil.rmtree(older / "img_db" / "val" / "pictures")
    spoil(older / "pictures" / "val" / "scene_val_000001.jpg")
    with pytest.raises(DataError, match=rf"scene_val_000001\.jpg {said}.*; remove the set and make it again"):
        make(older)
    assert not (older / "img_db" / "val" / "pictures").exists()


def test_annotation_points_at_what_is_there(scenes: Path, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        pixels = read_picture((scenes / "pictures" / row["file"]).read_bytes())
        assert pixels.shape == (row["height"], row["width"], 3)
        boxes = np.array([thing["box"] for thing in row["objects"]])
        assert boxes.min() >= 0
        assert (boxes[:, [0, 2]] <= row["width"]).all()
        assert (boxes[:, [1, 3]] <= row["height"]).all()
        for caption, phrases in zip(row["captions"], row["phrases"], strict=True):
            for phrase in phrases:
                assert 0 <= phrase["start"] < phrase["end"] <= len(caption.split())
                assert phrase["boxes"] == [row["objects"][number]["box"] for number in phrase["objects"]]


def test_groups_differ_in_one_fact(rows: list[dict[str, Any]]) -> None:
    bases = {(row["split"], row["group"]): row for row in rows if row["differs"] is None}
    for row in rows:
        base = bases[row["split"], row["group"]]
        changed = [
            (number, name)
            for number, (here, there) in enumerate(zip(row["objects"], base["objects"], strict=True))
            for name in ("colour", "shape", "texture", "size")
            if here[name] != there[name]
        ]
        turned = [(r[0], "relation") for r, s in zip(row["relations"], base["relations"], strict=True) if r != s]
        said = row["differs"]
        assert changed + turned == ([(said["thing"], said["kind"])] if said else [])


def test_features_are_those_of_the_saved_pixels(scenes: Path, rows: list[dict[str, Any]]) -> None:
    store = ImageStore(scenes / "img_db" / "val", RULE)
    whitener = Whitener.load(next((scenes / "img_db" / "val").glob("*/whitener.npz")))
    row = next(row for row in rows if row["split"] == "val")
    image = store.read(row["image_id"] + ".npz")
    pixels = read_picture((scenes / "pictures" / row["file"]).read_bytes())
    again = whitener.transform(describe(pixels, image.boxes[:, :4] * row["width"]))
    assert np.abs(again - image.features).mean() < 0.05


def test_two_workers_make_the_same_set(scenes: Path, tmp_path: Path) -> None:
    make(tmp_path / "again", "--workers", "2")
    assert contents(tmp_path / "again") == contents(scenes)


def test_a_scene_depends_on_seed_split_and_number_alone(
    scenes: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = next(row for row in rows if row["image_id"] == "scene_val_000002")
    for seed, first, end in ((0, 0, 3), (0, 2, 9), (1, 2, 3)):
        part = shard.Shard(tmp_path / f"{seed}-{first}", seed, "val", first, end)
        shard.make_shard(part)
        row = json.loads(part.rows()[2 - first])
        picture = (part.folder / "pictures" / row["file"]).read_bytes()
        same = (row == expected, picture == (scenes / "pictures" / row["file"]).read_bytes())
        assert same == ((True, True) if seed == 0 else (False, False))


def test_made_sets_are_left_alone(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(scenes)
    assert make(scenes) == 0
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="was made with another seed"):
        make(scenes, "--seed", "5")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="is no set of scenes"):
        make(tmp_path / "mine")
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="was not made by this program"):
        make(tmp_path / "new")
    assert (tmp_path / "new.partial" / "letter.txt").read_text() == "dear"
    assert contents(scenes) == before


ONE_SPLIT = ("--val", "0", "--test", "0")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a set of one split, in three shards, contains when nothing goes wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "SHARD", 4)
        output = tmp_path_factory.mktemp("straight") / "scenes"
        make(output, *ONE_SPLIT)
    return contents(output)


@pytest.mark.parametrize("place", ["shards", "whitener", "images", "pictures", "texts"])
def test_goes_on_after_it_was_broken_off(
    straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    owner, name, after = {
        "shards": (make_scenes, "make_shard", 2),
        "whitener": (make_scenes.Whitener, "fit", 0),
        "images": (make_scenes.ImageWriter, "add", 7),
        "pictures": (make_scenes, "encode_picture", 5),
        "texts": (make_scenes, "pack", 0),
    }[place]
    whole, calls = getattr(owner, name), []

    def break_off(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(shard, "SHARD", 4)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, break_off)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "scenes", *ONE_SPLIT)
    assert not (tmp_path / "scenes").exists()
    make(tmp_path / "scenes", *ONE_SPLIT)
    assert contents(tmp_path / "scenes") == straight


def test_what_other_flags_began_is_not_taken_over(
    straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "SHARD", 4)
    with monkeypatch.context() as patch:
        patch.setattr(make_scenes.Whitener, "fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "scenes", *ONE_SPLIT, "--seed", "9")
    make(tmp_path / "scenes", *ONE_SPLIT)
    assert contents(tmp_path / "scenes") == straight


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("--train", "0"), "train 0"), (("--val", "-1"), "val -1"), (("--img_dim", "211"), "img_dim 211 .*210")],
)
def test_wrong_numbers_are_named(tmp_path: Path, flags: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(tmp_path / "scenes", *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_survives_a_kill(tmp_path: Path) -> None:
    flags = ["--train", "240", "--val", "4", "--test", "4", "--workers", "1"]
    program = [sys.executable, str(ROOT / "scripts" / "make_scenes.py"), *flags, "--output"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen([*program, str(tmp_path / "killed")], env=environment)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("killed.partial/shards/*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    with subprocess.Popen([*program, str(tmp_path / "killed")], env=environment, stderr=subprocess.PIPE) as second:
        assert b"is being made by another process" in second.communicate()[1]
        assert second.returncode == DataError.exit_code
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed").exists()
    for name in ("killed", "straight"):
        subprocess.run([*program, str(tmp_path / name)], env=environment, check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")
