from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from config import load
from config.errors import ConfigError
from config.files import Reader
from config.kinds import Kinds

Write = Callable[..., Path]
SHIPPED = Path(__file__).parents[2] / "config"
MODELS = {"uniter-base", "uniter-large"}
RUNS = sorted(path.stem for path in SHIPPED.glob("*.json") if path.stem not in MODELS)


@pytest.mark.parametrize("name", RUNS)
def test_every_shipped_config_loads(name: str, kinds: Kinds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENES", "/scenes")
    run = load(SHIPPED / f"{name}.json", {}, kinds)
    assert (run.matcher.name, run.objective.name) == ("uniter", "iais" if "iais" in name else "hinge")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_shipped_model_config_fits_a_matcher_section(name: str, kinds: Kinds, write: Write) -> None:
    run = load(write("run.json", {"matcher": {"extends": str(SHIPPED / f"{name}.json")}}), {}, kinds)
    assert run.dump()["matcher"].items() >= json.loads((SHIPPED / f"{name}.json").read_text()).items()


@pytest.mark.parametrize(
    ("house", "published"),
    [
        ("itm-flickr-hn", "itm-flickr-base-16gpu-hn"),
        ("itm-flickr-hn", "itm-flickr-base-8gpu-hn"),
        ("itm-flickr-large-hn", "itm-flickr-large-16gpu-hn"),
        ("itm-coco-hn", "itm-coco-base-16gpu-hn"),
        ("itm-coco-large-hn", "itm-coco-large-16gpu-hn"),
    ],
)
def test_a_recipe_is_the_same_run_in_both_forms(house: str, published: str, kinds: Kinds) -> None:
    ours, theirs = (load(SHIPPED / f"{name}.json", {}, kinds) for name in (house, published))
    assert ours.hash() == theirs.hash()
    assert ours.output.output_dir == f"/storage/{house}"


def test_the_published_recipes_differ_where_the_table_says(kinds: Kinds) -> None:
    flickr, coco = (load(SHIPPED / f"itm-{name}-large-hn.json", {}, kinds) for name in ("flickr", "coco"))
    assert (flickr.optim.learning_rate, flickr.eval.full_val) == (5e-5, True)
    assert (coco.optim.learning_rate, coco.eval.full_val) == (3e-5, False)
    assert flickr.weights.checkpoint == coco.weights.checkpoint == "/pretrain/uniter-large.pt"
    assert flickr.dump()["matcher"]["hidden_size"] == 1024
    assert len(coco.data.train_txt_dbs) == 2


def test_extends_is_found_beside_the_file_that_says_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shared/base.json", {"seed": 1, "data": {"max_bb": 50}})
    write("shared/middle.json", {"extends": "base.json", "data": {"min_bb": 5}})
    path = write("runs/run.json", {"extends": "../shared/middle.json", "seed": 2})
    monkeypatch.chdir("/")
    assert {key: value for key, (value, _) in Reader().read(path).items()} == {
        "seed": 2,
        "data.max_bb": 50,
        "data.min_bb": 5,
    }


def test_a_section_may_extend_a_file_of_its_own(write: Write) -> None:
    write("small.json", {"hidden_size": 64, "num_hidden_layers": 2})
    path = write("run.json", {"matcher": {"extends": "small.json", "hidden_size": 32}})
    assert {key: value for key, (value, _) in Reader().read(path).items()} == {
        "matcher.hidden_size": 32,
        "matcher.num_hidden_layers": 2,
    }


def test_notes_are_allowed_everywhere(kinds: Kinds, write: Write) -> None:
    write("small.json", {"_note": "small", "hidden_size": 64})
    path = write("run.json", {"_note": "a", "data": {"_note": ["b"]}, "matcher": {"extends": "small.json"}})
    assert load(path, {}, kinds).dump()["matcher"]["hidden_size"] == 64


def test_one_base_may_be_reached_twice(write: Write) -> None:
    write("small.json", {"hidden_size": 64})
    write("base.json", {"matcher": {"extends": "small.json"}})
    Reader().read(write("run.json", {"extends": "base.json", "matcher": {"extends": "small.json"}}))


def test_a_circle_of_extends_is_refused(write: Write) -> None:
    write("b.json", {"extends": "c.json"})
    write("c.json", {"extends": "b.json"})
    with pytest.raises(ConfigError, match=r"circle \(b.json -> c.json -> b.json\)"):
        Reader().read(write("a.json", {"extends": "b.json"}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "should hold one JSON object"),
        ('{"seed": 1,}', r"run\.json:1:\d+: not valid JSON"),
        ('{"seed": 1, "seed": 2}', "the key 'seed' stands twice"),
        ('{"extends": ["a.json"]}', "should be the name of a file"),
        ('{"extends": "bse.json"}', r"bse\.json: there is no such config file; did you mean base\?"),
        ('{"extends": "${NOWHERE}/a.json"}', "NOWHERE is not set"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    content: str, message: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    write("base.json", {})
    with pytest.raises(ConfigError, match=message):
        Reader().read(write("run.json", content))


def test_a_folder_and_bytes_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Reader().read(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Reader().read(tmp_path / "run.json")
