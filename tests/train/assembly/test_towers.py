"""train/assembly/towers.py: pre-trained towers from folders and, where there is one, from a hub."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from config import load
from config.errors import ConfigError, DataError
from config.schema import Run
from model.laps import Config, Laps
from model.matcher import build
from tests.samples import SMALL
from train.assembly.kinds import KINDS
from train.assembly.recipe import build_parts
from train.assembly.towers import fetch_tower, load_towers, resolve_towers
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.snapshot import Snapshot
from train.distributed.comm import Solo

VIT = {name: value for name, value in SMALL["vision"].items() if name != "model_type"}  # type: ignore[attr-defined]
BERT = {name: value for name, value in SMALL["text"].items() if name != "model_type"}  # type: ignore[attr-defined]
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """`save("ViTModel", **settings)`: a folder as its library saves it, with random weights."""

    def saved(model: str, folder: str = "", shard: str = "1GB", **settings: Any) -> Path:
        import transformers

        stem = model.removesuffix("ForImageClassification").removesuffix("Model").removesuffix("ForMaskedLM")
        torch.manual_seed(11)
        made = getattr(transformers, model)(getattr(transformers, f"{stem}Config")(**settings))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        made.save_pretrained(tmp_path / (folder or model), max_shard_size=shard)
        return tmp_path / (folder or model)

    return saved


def run_of(weights: dict[str, str], **matcher: Any) -> Run:
    settings = {"name": "laps", "embed_size": 16, "text": SMALL["text"], "vision": SMALL["vision"]} | matcher
    objective = KINDS["objective"]("triplet")()
    return Run(weights=weights, matcher=Config(**settings), objective=objective)  # type: ignore[arg-type]


def loaded(run: Run) -> tuple[Run, Laps]:
    """The run as it is resolved, and its model with the towers in it."""
    run = resolve_towers(run)
    torch.manual_seed(5)
    matcher = build(run.matcher)
    load_towers(matcher, run)
    assert isinstance(matcher, Laps)
    return run, matcher


def same(tower: torch.nn.Module, folder: Path, kind: str) -> bool:
    """Whether a tower gives what the library's own reading of the folder gives."""
    import transformers

    theirs = getattr(transformers, kind).from_pretrained(folder).eval().float()
    with torch.no_grad():
        if kind == "BertModel":
            given: dict[str, Tensor] = {"input_ids": torch.arange(1, 9)[None]}
        else:
            given = {"pixel_values": torch.randn(2, 3, 16, 16)}
        ours = tower.eval()(**given).last_hidden_state
        return torch.equal(ours, theirs(**given).last_hidden_state) and float(ours.abs().max()) > 0.1


@pytest.mark.parametrize(("model", "side", "base", "settings"), [
    ("ViTModel", "vision", "ViTModel", VIT),
    ("ViTForImageClassification", "vision", "ViTModel", VIT),
    ("SwinForImageClassification", "vision", "SwinModel", SWIN),
    ("BertModel", "text", "BertModel", BERT),
    ("BertForMaskedLM", "text", "BertModel", BERT),
])  # fmt: skip
def test_a_folder_fills_its_tower(model: str, side: str, base: str, settings: dict[str, Any], save: Save) -> None:
    folder = save(model, **settings)
    kind = {"vision": base.removesuffix("Model").lower(), "text": "bert"}[side]
    run, matcher = loaded(run_of({side: str(folder)}, **{side: {"model_type": kind}}))
    assert same(getattr(matcher, side).tower, folder, base)
    other = "text" if side == "vision" else "vision"
    torch.manual_seed(5)
    untouched = build(run.matcher)
    before, after = (dict(getattr(m, other).state_dict()) for m in (untouched, matcher))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_run_takes_the_sizes_and_does_without_the_folder_then(save: Save, tmp_path: Path) -> None:
    folder = save("SwinModel", **SWIN, drop_path_rate=0.25)
    run, _ = loaded(run_of({"vision": str(folder)}, vision={"model_type": "swin"}))
    vision = run.matcher.vision  # type: ignore[attr-defined]
    assert vision == {"model_type": "swin", **SWIN, "drop_path_rate": 0.25}
    folder.rename(tmp_path / "gone")
    (tmp_path / "config.json").write_text(json.dumps(run.dump()))
    again = load(tmp_path / "config.json", {}, KINDS)
    assert again.hash() == run.hash()
    assert build(again.matcher).vision.patches == 16  # type: ignore[union-attr, operator]


def test_settings_of_training_are_the_runs_own(save: Save) -> None:
    folder = save("SwinModel", **SWIN, drop_path_rate=0.25)
    run = resolve_towers(run_of({"vision": str(folder)}, vision={"model_type": "swin", "drop_path_rate": 0.0}))
    assert run.matcher.vision == {"model_type": "swin", **SWIN, "drop_path_rate": 0.0}  # type: ignore[attr-defined]
    said = {"model_type": "swin", **SWIN, "drop_path_rate": 0.5}
    assert resolve_towers(run_of({"vision": str(folder)}, vision=said)).matcher.vision == said  # type: ignore[attr-defined]


def test_a_run_without_towers_is_left_alone() -> None:
    run = run_of({})
    assert resolve_towers(run) is run


@pytest.mark.parametrize(("vision", "told"), [
    ({"image_size": 32}, r"image_size 16 there, 32 in this run"),
    ({"patch_size": 8}, r"patch_size 4 there, 8 in this run"),
    ({"hidden_size": 32, "num_hidden_layers": 3}, r"hidden_size 16 there, 32 in this run; num_hidden_l"),
    ({"layer_norm_eps": 1e-5}, r"layer_norm_eps 1e-12 there, 1e-05 in this run"),
])  # fmt: skip
def test_another_width_or_grid_is_refused(vision: dict[str, Any], told: str, save: Save) -> None:
    folder = save("ViTModel", **VIT)
    said = {"model_type": "vit", **VIT} | vision
    with pytest.raises(DataError, match=rf"weights\.vision=.*: another tower \({told}") as error:
        resolve_towers(run_of({"vision": str(folder)}, vision=said))
    assert 'set matcher.vision to {"model_type": "vit"} to take its sizes' in str(error.value)
    assert "\n" not in str(error.value)


def test_another_type_is_refused(save: Save) -> None:
    folder = save("SwinModel", **SWIN)
    with pytest.raises(DataError, match=r"\(model_type swin there, vit in this run\); set matcher\.vision to .*swin"):
        resolve_towers(run_of({"vision": str(folder)}, vision={"model_type": "vit"}))


def test_shards_and_old_files_are_read(save: Save) -> None:
    whole = save("ViTModel", "whole", **VIT)
    shards = save("ViTModel", "shards", shard="8KB", **VIT)
    assert (shards / "model.safetensors.index.json").exists()
    state = load_file(whole / "model.safetensors")
    old = whole.with_name("old")
    old.mkdir()
    (old / "config.json").write_bytes((whole / "config.json").read_bytes())
    torch.save({f"vit.{name}": tensor.half() for name, tensor in state.items()}, old / "pytorch_model.bin")
    towers = [loaded(run_of({"vision": str(folder)}))[1].vision.tower.state_dict() for folder in (whole, shards, old)]
    for name, tensor in towers[0].items():
        assert torch.equal(tensor, towers[1][name])
        assert torch.equal(tensor.half().float(), towers[2][name])
        assert towers[2][name].dtype == torch.float32


def test_names_of_an_old_bert_are_understood(save: Save) -> None:
    folder = save("BertModel", **BERT)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    old = {f"bert.{n}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
           for n, t in state.items()}  # fmt: skip
    torch.save(old | {"bert.embeddings.position_ids": torch.arange(64)[None]}, folder / "pytorch_model.bin")
    _, matcher = loaded(run_of({"text": str(folder)}))
    found = matcher.text.tower.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())


def test_a_pair_of_towers_is_one_side_of_it(save: Save) -> None:
    side = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    folder = save("CLIPModel", text_config=side | {"vocab_size": 30},
                  vision_config=side | {"image_size": 16, "patch_size": 4})  # fmt: skip
    run, matcher = loaded(run_of({"vision": str(folder)}, vision={"model_type": "clip_vision_model", "has_cls": True}))
    assert (matcher.vision.patches, matcher.vision.has_cls) == (16, True)
    assert run.matcher.vision["has_cls"] is True  # type: ignore[attr-defined]
    state = load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    found = matcher.vision.tower.state_dict()
    assert any(torch.equal(state[name], tensor) for key, tensor in found.items() if key.endswith("mlp.fc1.weight"))


def test_every_tensor_has_to_be_there(save: Save) -> None:
    folder = save("ViTModel", **VIT)
    state = load_file(folder / "model.safetensors")
    for name in [name for name in state if ".layer.1.output" in name]:
        del state[name]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"weights\.vision=.*: lacks 2 tensors of the tower \(layers\.1\.mlp"):
        loaded(run_of({"vision": str(folder)}))


def test_damaged_weights_are_told(save: Save) -> None:
    folder = save("ViTModel", **VIT)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"weights\.vision=.*: not whole weights") as error:
        loaded(run_of({"vision": str(folder)}))
    assert "\n" not in str(error.value)


def test_a_lost_shard_is_told(save: Save) -> None:
    folder = save("ViTModel", shard="8KB", **VIT)
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(DataError, match=r"weights\.vision=.*: not whole weights"):
        loaded(run_of({"vision": str(folder)}))


class Trap:
    """Leaves a mark where it is unpickled blindly."""

    def __init__(self, mark: Path) -> None:
        self.manifest = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.manifest,)


def test_nothing_but_tensors_is_unpickled(save: Save, tmp_path: Path) -> None:
    folder = save("ViTModel", **VIT)
    (folder / "model.safetensors").unlink()
    torch.save({"vit.embeddings.cls_token": Trap(tmp_path / "mark")}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"weights\.vision="):
        loaded(run_of({"vision": str(folder)}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(DataError, match=r"weights\.vision="):
        loaded(run_of({"vision": str(folder)}))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(("config", "told"), [
    (None, r"lacks config\.json or weights"),
    ("{", r"config\.json: not whole"),
    ("[]", r"config\.json: names no model_type"),
    ('{"hidden_size": 3}', r"config\.json: names no model_type"),
    ('{"model_type": "vitt"}', r"config\.json: is no vision tower that can be used here .*vitt"),
    ('{"model_type": "vit", "hidden_size": "x"}', r"config\.json: is no vision tower .*hidden_size"),
    ('{"model_type": "bert", "position_embedding_type": "relative_key"}', r"position_embedding_type = 'relative_key'"),
])  # fmt: skip
def test_a_config_that_says_nothing_is_told(config: str | None, told: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(DataError, match=told) as error:
        resolve_towers(run_of({"vision": str(tmp_path)}))
    assert "\n" not in str(error.value)


def test_a_pair_of_edges_is_one_edge(save: Save) -> None:
    folder = save("ViTModel", **VIT)
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | {"image_size": [16, 16], "patch_size": [4, 4]}))
    run, matcher = loaded(run_of({"vision": str(folder)}, vision={"model_type": "vit"}))
    assert run.matcher.vision["image_size"] == 16  # type: ignore[attr-defined]
    assert matcher.vision.patches == 16


def test_what_cannot_go_together_is_told(save: Save) -> None:
    folder = str(save("ViTModel", **VIT))
    with pytest.raises(ConfigError, match=r'holds the towers already; .* \(--vision "" --text ""\)$'):
        resolve_towers(run_of({"vision": folder, "checkpoint": "best"}))
    bfan = Run(weights={"vision": folder}, matcher=KINDS["matcher"]("bfan")(name="bfan"),
               objective=KINDS["objective"]("triplet")())  # type: ignore[arg-type, call-arg] # fmt: skip
    with pytest.raises(ConfigError, match=r"weights\.vision=.*: matcher bfan has no vision tower; leave it out"):
        resolve_towers(bfan)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./vit", "~/nowhere at all", "a/b/c"])
def test_a_folder_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(DataError, match=r"weights\.vision=.*: no such folder; name one that holds config"):
        fetch_tower(name, "vision")


@pytest.mark.parametrize("how", ["unreachable", "forbidden"])
def test_a_hub_that_is_out_of_reach_fails_fast_and_says_what_to_do(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "forbidden")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    told = (r"weights\.vision=google/vit-base-patch16-224-in21k: not on this machine and the hub cannot be reached .*"
            r"download config\.json and model\.safetensors of it into a folder and name that folder")  # fmt: skip
    with pytest.raises(DataError, match=told) as error:
        fetch_tower("google/vit-base-patch16-224-in21k", "vision")
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 20


def test_what_the_hub_gave_before_is_used_without_it(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    snapshot = cache / "models--someone--tiny-vit" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    save("ViTModel", **VIT).rename(snapshot)
    refs = cache / "models--someone--tiny-vit" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_tower("someone/tiny-vit", "vision") == snapshot
    _, matcher = loaded(run_of({"vision": "someone/tiny-vit"}))
    assert same(matcher.vision.tower, snapshot, "ViTModel")


@pytest.mark.parametrize(("files", "wanted"), [
    (["config.json", "model.safetensors", "pytorch_model.bin", "README.md"], "model.safetensors"),
    (["config.json", "pytorch_model.bin", "tf_model.h5"], "pytorch_model.bin"),
    (["config.json", "tf_model.h5"], ""),
    (["model.safetensors"], ""),
])  # fmt: skip
def test_of_a_hub_only_what_is_read_is_fetched(
    files: list[str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub pretended: what it lists, and what is asked of it."""
    import huggingface_hub

    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            raise FileNotFoundError("nothing is kept")
        asked.append(allow_patterns)
        return str(tmp_path)

    listed = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, timeout: listed)
    if not wanted:
        with pytest.raises(DataError, match=r"it holds no config\.json with model\.safetensors or pytorch_model\.bin"):
            fetch_tower("someone/vit", "vision")
        assert asked == []
    else:
        assert fetch_tower("someone/vit", "vision") == tmp_path
        assert [patterns[:2] for patterns in asked] == [["config.json", wanted]]


def test_a_recipe_starts_from_its_towers_and_a_checkpoint_does_without(save: Save, tmp_path: Path) -> None:
    folder = save("ViTModel", **VIT)
    run = run_of({"vision": str(folder)}, vision={"model_type": "vit"})
    parts = build_parts(run, Solo())
    assert parts.run.matcher.vision == {"model_type": "vit", **VIT}  # type: ignore[attr-defined]
    assert same(parts.matcher.vision.tower, folder, "ViTModel")  # type: ignore[union-attr, arg-type]
    again = build_parts(run, Solo()).matcher.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in parts.matcher.state_dict().items())
    save_file(parts.matcher.state_dict(), tmp_path / "best.safetensors")
    folder.rename(tmp_path / "gone")
    evaluated = build_parts(parts.run, Solo(), str(tmp_path / "best.safetensors"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in evaluated.matcher.state_dict().items())


def test_a_checkpoint_says_what_its_towers_were(save: Save, tmp_path: Path) -> None:
    """The recipe still says no more than a type, and the pre-trained folder is gone."""
    folder = save("ViTModel", **VIT)
    run = run_of({"vision": str(folder)}, vision={"model_type": "vit"})
    parts = build_parts(run, Solo())
    whole = Snapshot.of(3, parts.matcher.state_dict(), {}, parts.run.dump())
    saved = Checkpoints(tmp_path / "out", keep=1).write(whole)
    folder.rename(tmp_path / "gone")
    evaluated, resumed = build_parts(run, Solo(), str(saved)), build_parts(run, Solo(), resumed=saved)
    assert evaluated.run.matcher == resumed.run.matcher == parts.run.matcher
    for name, tensor in parts.matcher.state_dict().items():
        assert torch.equal(evaluated.matcher.state_dict()[name], tensor)
    with pytest.raises(DataError, match="no such folder"):
        build_parts(run, Solo())


def test_a_run_does_not_start_from_a_part_of_a_model(tmp_path: Path) -> None:
    run = run_of({"checkpoint": str(tmp_path / "part.safetensors")})
    state = build(run.matcher).state_dict()
    save_file({name: tensor for name, tensor in state.items() if name.startswith("aggregate.")},
              tmp_path / "part.safetensors")  # fmt: skip
    with pytest.raises(DataError, match=r"hardly a part of this laps: name other weights; --strict_checkpoint false"):
        build_parts(run, Solo())
