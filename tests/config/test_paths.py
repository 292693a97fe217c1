from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from config.paths import Kind, describe_mismatch, inspect_path, run_at, store_folders

RUN = json.dumps({"matcher": {"name": "uniter"}, "optim": {}})


def make(folder: Path, *names: str, **contents: str) -> Path:
    """Files below a folder, empty but for those whose content is given by their stem."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents.get(path.stem, ""))
    return folder


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        (("data.mdb", "meta.json", "id2len.json", "txt2img.json"), Kind.TEXTS, "a text store"),
        (("meta.json", "id2len.json"), Kind.TEXTS, "a text store"),
        (("native_all/data.mdb",), Kind.IMAGES, "an image store of region features (native_all)"),
        (("feat_numbb36/data.mdb", "pictures/data.mdb"), Kind.IMAGES, "region features (feat_numbb36, pictures)"),
        (("pictures/data.mdb",), Kind.IMAGES, "an image store of pictures (pictures)"),
        (("config.json",), Kind.RUN, "a run's output folder"),
        (("config.json", "ckpt/step-00000005/state.pt"), Kind.RUN, "a run's output folder"),
        (("config.json", "model.safetensors"), Kind.CHECKPOINT, "a checkpoint"),
        (("step-00000005/state.pt", "measured.json"), Kind.OTHER, "the folder of a run's checkpoints"),
        (("a.db/data.mdb", "a.db/txt2img.json", "b.db/data.mdb"), Kind.OTHER, "a folder of text stores (a.db, b.db)"),
        (("train/native_all/data.mdb", "val/all/data.mdb"), Kind.OTHER, "a folder of image stores (train, val)"),
        (("a.npz", "b.npz"), Kind.OTHER, "a folder of feature files (.npz)"),
        (("a.jpeg",), Kind.OTHER, "a folder of pictures"),
        (("train_ims.npy", "train_caps.txt"), Kind.OTHER, "a folder of arrays (.npy)"),
        (("a", "b", "c", "d", "e"), Kind.OTHER, "a folder of other things (a, b, c, d, ...)"),
        ((), Kind.OTHER, "an empty folder"),
    ],
)
def test_a_folder_is_what_it_holds(names: tuple[str, ...], kind: Kind, words: str, tmp_path: Path) -> None:
    place = inspect_path(make(tmp_path, *names, config=RUN))
    assert place.kind is kind
    assert place.words.endswith(words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.json", RUN, "a config file"),
        ("c.json", '{"extends": "a.json"}', "a config file"),
        ("c.json", '{"CLS": 2}', "a JSON file"),
        ("c.json", "[1", "a JSON file"),
        ("w.pt", "", "a file of weights"),
        ("model_best.pth.tar", "", "a file of weights"),
        ("pictures.tar", "", "an archive"),
        ("x.npz", "", "a file of features"),
        ("x", "", "a file"),
    ],
)
def test_a_file_is_told_by_its_ending(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert inspect_path(tmp_path / name).words == words


def test_what_was_meant_is_named(tmp_path: Path) -> None:
    images = make(tmp_path / "train", "native_all/data.mdb")
    texts = make(tmp_path / "train.db", "data.mdb", "txt2img.json")
    run = make(tmp_path / "run", "config.json", "ckpt/step-00000005/state.pt", config=RUN)
    (run / "ckpt" / "best").symlink_to("step-00000005")
    assert inspect_path(images / "native_all").remedy == f"name the folder above it, {images}"
    assert inspect_path(images / "native_all" / "data.mdb").remedy == f"name its folder, {images}"
    assert inspect_path(texts / "data.mdb").remedy == f"name its folder, {texts}"
    assert inspect_path(run / "ckpt").remedy == f"name one of them, such as {run / 'ckpt' / 'best'}"
    assert inspect_path(tmp_path / "trian.db").remedy == f"did you mean {texts}?"


def test_a_checkpoint_tells_the_run_that_it_is_of(tmp_path: Path) -> None:
    make(tmp_path, "config.json", "ckpt/step-00000005/config.json", "ckpt/step-00000005/model.safetensors", config=RUN)
    assert inspect_path(tmp_path / "ckpt" / "step-00000005").words == f"a checkpoint of the run in {tmp_path}"


def test_a_pretrained_model_is_no_run(tmp_path: Path) -> None:
    make(tmp_path, "config.json", "model.safetensors", config='{"model_type": "vit"}')
    assert inspect_path(tmp_path).words == "a pre-trained model's folder"


def test_nothing_tells_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inspect_path(Path("a.db")) == (Kind.NOTHING, f"not exist in {tmp_path}", "", ())
    assert inspect_path(tmp_path / "a.db").words == "not exist"
    (tmp_path / "a.db.partial").mkdir()
    assert describe_mismatch(tmp_path / "a.db", Kind.TEXTS, "pack it") == (
        "it does not exist, but its packing was begun; start that again, it goes on where it was"
    )


def test_stores_of_the_other_kind_may_be_swapped(tmp_path: Path) -> None:
    images = make(tmp_path / "i", "all/data.mdb")
    texts = make(tmp_path / "t", "data.mdb", "txt2img.json")
    told_of_images = "it is an image store of region features (all); are text and image stores swapped?"
    assert describe_mismatch(images, Kind.TEXTS, "-") == told_of_images
    assert describe_mismatch(texts, Kind.IMAGES, "-") == "it is a text store; are text and image stores swapped?"
    assert describe_mismatch(texts, Kind.RUN, "name a run") == "it is a text store; name a run"


def test_nothing_is_advised_that_would_be_refused_in_its_turn(tmp_path: Path) -> None:
    texts = make(tmp_path / "all" / "a.db", "data.mdb", "txt2img.json").parent
    pictures = make(tmp_path / "pictures", "1.jpg")
    run = make(tmp_path / "run", "config.json", "ckpt/step-00000005/model.safetensors", config=RUN)
    for path, leads in ((texts, Kind.TEXTS), (texts / "b.db", Kind.TEXTS), (texts / "a.db" / "data.mdb", Kind.TEXTS),
                        (pictures, Kind.IMAGES), (run / "ckpt", Kind.CHECKPOINT), (tmp_path / "runs", Kind.RUN)):
        for wanted in (Kind.TEXTS, Kind.IMAGES, Kind.CHECKPOINT, Kind.RUN):
            assert (inspect_path(path).advice("-", wanted) == "-") == (wanted is not leads)
    assert inspect_path(tmp_path / "tests").advice("-", *Kind) == "-", "letters shared by chance"


def test_half_written_layouts_are_not_listed(tmp_path: Path) -> None:
    make(tmp_path, "all/data.mdb", "native_all.partial/data.mdb")
    assert store_folders(tmp_path) == ["all"]


def test_a_folder_that_may_not_be_read_is_some_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    try:
        assert inspect_path(closed).kind is Kind.OTHER
    finally:
        os.chmod(closed, 0o700)


def test_the_config_of_a_run_stands_for_the_run(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "config.json", config=RUN)
    make(tmp_path / "model", "config.json", config='{"model_type": "vit"}')
    assert run_at(run / "config.json") == run_at(run) == run
    for other in (tmp_path / "model" / "config.json", tmp_path / "gone"):
        assert run_at(other) == other
