from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from config import load
from config.errors import ConfigError
from config.files import Reader
from config.kinds import Kinds
from train.assembly.kinds import KINDS

Write = Callable[..., Path]
SHIPPED = Path(__file__).parents[2] / "config"
PARTS = {"uniter-base": "matcher", "uniter-large": "matcher", "parity-quintuplet": "objective",
         "parity-laps": "matcher"}
RUNS = sorted(path.stem for path in SHIPPED.glob("*.json") if path.stem not in PARTS)


def kinds_of(name: str) -> tuple[str, str]:
    """The matcher and the objective that a config's name promises."""
    if "laps" in name:
        return "laps", "triplet"
    if "vsrn" in name or "bfan" in name or name == "aoq-base":
        offline = "aoq" in name and name != "aoq-base"
        return "bfan" if "bfan" in name else "vsrn", "quintuplet" if offline else "triplet"
    return "uniter", "iais" if "iais" in name else "hinge"


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that shipped configs leave to the environment."""
    for name in ("SCENES", "OFFLINE"):
        monkeypatch.setenv(name, f"/{name.lower()}")


@pytest.mark.parametrize("name", RUNS)
def test_every_shipped_config_loads(name: str, folders: None) -> None:
    run = load(SHIPPED / f"{name}.json", {}, KINDS)
    assert (run.matcher.name, run.objective.name) == kinds_of(name)
    assert bool(run.negatives.offline) is (run.objective.name == "quintuplet")


@pytest.mark.parametrize("name", sorted(PARTS))
def test_every_shipped_part_fits_its_section(name: str, write: Write) -> None:
    run = load(write("run.json", {PARTS[name]: {"extends": str(SHIPPED / f"{name}.json")}}), {}, KINDS)
    theirs = {key: value for key, value in json.loads((SHIPPED / f"{name}.json").read_text()).items() if key[0] != "_"}
    assert run.dump()[PARTS[name]].items() >= theirs.items()


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


@pytest.mark.parametrize(
    ("name", "batch", "rate", "drop", "epochs"),
    [
        ("vsrn-coco", 128, 2e-4, 15, 30),
        ("vsrn-f30k", 128, 2e-4, 15, 30),
        ("aoq-vsrn-coco", 124, 2e-4, 10, 20),
        ("aoq-vsrn-f30k", 124, 2e-4, 10, 20),
        ("bfan-equal-coco", 128, 5e-4, 15, 20),
        ("bfan-prob-f30k", 128, 2e-4, 15, 15),
        ("aoq-bfan-equal-coco", 128, 5e-4, 10, 20),
        ("aoq-bfan-prob-coco", 128, 5e-4, 10, 20),
        ("aoq-bfan-equal-f30k", 128, 2e-4, 10, 15),
        ("aoq-bfan-prob-f30k", 128, 2e-4, 10, 15),
    ],
)
def test_the_published_recipes_over_items_are_those_of_the_table(
    name: str, batch: int, rate: float, drop: int, epochs: int
) -> None:
    """`drop`: epochs after which the rate is a tenth; an epoch ends with a batch that is not full."""
    captions = 5 * (113_287 if "coco" in name else 29_000)
    updates = math.ceil(captions / batch)
    for kind in ("",) if name.startswith("bfan") else ("", "-parity"):
        run = load(SHIPPED / f"{name}{kind}.json", {}, KINDS)
        optim, objective = run.optim, run.objective.model_dump()
        assert (optim.train_batch_size, optim.learning_rate) == (batch, rate)
        assert (optim.decay_steps, optim.num_train_steps) == (drop * updates, epochs * updates)
        assert (optim.optim, optim.betas, optim.adam_eps, optim.weight_decay) == ("adam", (0.9, 0.999), 1e-8, 0)
        assert (optim.grad_norm, optim.warmup_steps, optim.decay_factor) == (2.0, 0, 0.1)
        assert objective["max_violation"]
        assert objective.get("mask_true_pairs", kind == "") is objective["mask_same_image"] is (kind == "")
        assert run.eval.folds == (5 if "coco" in name else 1)
        assert optim.step_twice == ("caption." if kind and "vsrn" in name else "")


@pytest.mark.parametrize(
    ("name", "ranks", "batch", "updates"),
    [
        ("laps-vit-f30k", 2, 64, 1132),
        ("laps-swin-f30k", 2, 64, 1132),
        ("laps-vit-coco", 4, 64, 2212),
        ("laps-swin-coco", 4, 64, 2212),
        ("laps-vit-f30k-1gpu", 1, 64, 2265),
        ("laps-swin-coco-1gpu", 1, 64, 8850),
        ("laps-vit384-f30k", 8, 8, 2265),
        ("laps-swin384-f30k", 8, 8, 2265),
        ("laps-vit-f30k-parity", 2, 64, 1132),
        ("laps-swin-coco-parity", 4, 64, 2212),
    ],
)
def test_the_published_recipes_of_laps_are_those_of_the_table(name: str, ranks: int, batch: int, updates: int) -> None:
    """`updates` of an epoch, whose last batch is dropped where it is not full."""
    run = load(SHIPPED / f"{name}.json", {}, KINDS)
    optim, parity = run.optim, name.endswith("parity")
    assert (566_435 if "coco" in name else 145_000) // (ranks * batch) == updates
    assert optim.train_batch_size == batch
    assert optim.num_train_steps == 30 * updates
    assert optim.decay_at == tuple(epoch * updates for epoch in (9, 15, 20, 25))
    assert run.eval.valid_steps == updates
    matcher, objective = run.matcher.model_dump(), run.objective.model_dump()
    swin = "swin" in name
    assert (matcher["sparse_ratio"], matcher["aggr_ratio"]) == ((0.8, 0.6) if swin else (0.5, 0.4))
    assert matcher["embed_size"] == (1024 if name.startswith("laps-swin-f30k") and "1gpu" not in name else 512)
    assert matcher["infer_cls_from_square"] is run.eval.select_on_test is parity
    assert (objective["ramp"], objective["hardest_from"], objective["margin"]) == (1 / 30, 1 / 30, 0.2)
    assert run.eval.folds == (5 if "coco" in name else 1)


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
    with pytest.raises(ConfigError, match="is an empty folder; name a config file or the output folder of a run"):
        Reader().read(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Reader().read(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("data.mdb", "txt2img.json"), "is a text store; name a config file or the output folder of a run"),
        (("native_all/data.mdb",), r"is an image store of region features \(native_all\); name a config file"),
        (("config.json", "model.safetensors"), r"is a checkpoint; name the run's folder .* with --which .* --resume"),
    ],
)
def test_a_folder_that_is_no_run_is_told_as_what_it_is(names: tuple[str, ...], told: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"matcher": {}}')
    with pytest.raises(ConfigError, match=told):
        Reader().read(tmp_path)


def test_a_file_of_weights_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"\x80\x02\xff")
    with pytest.raises(ConfigError, match=r"w\.pt: is a file of weights; name a config file"):
        Reader().read(tmp_path / "w.pt")
