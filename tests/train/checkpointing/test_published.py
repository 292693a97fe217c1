"""train/checkpointing/published.py: checkpoints as the authors saved them, and nothing else."""

from __future__ import annotations

import argparse
import io
import pickletools
import struct
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.errors import DataError
from model import conversion
from model.loading import Loaded, load
from model.matcher import Matcher
from model.published_names import PARTS
from tests.samples import lively, small
from train.checkpointing.checkpoint import read_weights
from train.checkpointing.published import build_matcher, guess_settings, load_restricted, read_published

SHARED = {"vocab_size": 60, "img_dim": 16, "embed_size": 16, "word_dim": 12, "num_layers": 1, "no_imgnorm": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "bfan": SHARED | {"data_name": "coco_precomp", "focal_type": "prob", "lambda_softmax": 9.0, "no_txtnorm": True,
                      "precomp_enc_type": "basic", "margin": 0.2, "workers": 10},
    "vsrn": SHARED | {"data_name": "f30k_precomp", "dim_vid": 16, "dim_hidden": 8, "dim_word": 8, "max_len": 9,
                      "bidirectional": 0, "rnn_type": "gru", "input_dropout_p": 0.1, "rnn_dropout_p": 0.5,
                      "use_abs": True, "measure": "cosine"},
}  # fmt: skip


def donor(system: str) -> Matcher:
    """A matcher of ours that the options describe."""
    own = {"bfan": {"focal_type": "prob", "lambda_softmax": 9.0, "no_txtnorm": True},
           "vsrn": {"variant": "F", "use_abs": True, "input_dropout_p": 0.1}}[system]  # fmt: skip
    sizes = {"vocab_size": 60, "img_dim": 16, "embed_size": 16, "word_dim": 12, "dim_hidden": 8, "dim_word": 8}
    return lively(small(system, **sizes, **own, max_len=9))


def parts_of(matcher: Matcher, system: str) -> list[dict[str, Tensor]]:
    """Its weights as the authors' list of state dicts."""
    published = conversion.to_published(system, matcher.state_dict())
    parts = [{n.removeprefix(p): t for n, t in published.items() if n.startswith(p)} for p in PARTS]
    return [part for part in parts if part]


def write(path: Path, system: str = "bfan", **changes: Any) -> Matcher:
    """A published file; `changes` replace what it holds (None leaves it out)."""
    matcher = donor(system)
    content = {"epoch": 5, "model": parts_of(matcher, system), "best_rsum": 401.5, "Eiters": 123,
               "opt": Namespace(**OPTIONS[system])} | changes  # fmt: skip
    kept = {name: value for name, value in content.items() if value is not None}
    torch.save(kept, path, _use_new_zipfile_serialization=False)
    return matcher


def as_python2_on_a_gpu(content: bytes) -> bytes:
    """The same file as Python 2 wrote it from a GPU: byte strings, and storages of `torch.cuda`."""
    stream, out = io.BytesIO(content), bytearray()
    for _ in range(5):  # magic number, protocol, system, the content, and the storages' keys in their order
        start = stream.tell()
        ops = [(op.name, argument, place) for op, argument, place in pickletools.genops(stream)]
        piece = content[: stream.tell()]
        ends = [*[place for _, _, place in ops][1:], stream.tell()]
        for (name, argument, place), end in zip(ops, ends, strict=True):
            if name == "BINUNICODE":
                text = {"cpu": "cuda:0"}.get(argument, argument).encode()
                out += b"U" + struct.pack("B", len(text)) + text
            elif name == "GLOBAL" and argument.endswith("Storage"):
                out += b"ctorch.cuda\n" + argument.split()[1].encode() + b"\n"
            else:
                out += piece[place:end]
        assert start < stream.tell()
    return bytes(out) + content[stream.tell() :]


@pytest.mark.parametrize("system", ["bfan", "vsrn"])
@pytest.mark.parametrize("old", [False, True], ids=["python 3", "python 2, gpu"])
def test_a_checkpoint_is_built_and_loaded_from_its_own_options(system: str, old: bool, tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth.tar"
    theirs = write(path, system)
    if old:
        path.write_bytes(as_python2_on_a_gpu(path.read_bytes()))
        assert b"cuda:0" in path.read_bytes()
    found = read_published(path)
    assert found.facts == {"epoch": 5, "Eiters": 123, "best_rsum": 401.5}
    assert found.options == OPTIONS[system]
    assert {tensor.device.type for tensor in found.weights.values()} == {"cpu"}
    matcher = build_matcher(system, found)
    assert load(matcher, system, found.weights) == Loaded([], [])
    assert matcher.config == theirs.config  # type: ignore[union-attr]
    assert all(torch.equal(tensor, matcher.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_its_weights_are_read_like_any_others(tmp_path: Path) -> None:
    theirs = write(tmp_path / "best.pth.tar", "vsrn")
    again = small("vsrn", seed=8, **theirs.config.model_dump(exclude={"name"}))  # type: ignore[union-attr, operator]
    assert load(again, "vsrn", read_weights(tmp_path / "best.pth.tar")) == Loaded([], [])
    assert torch.equal(again.state_dict()["graph.3.phi.weight"], theirs.state_dict()["graph.3.phi.weight"])


@pytest.mark.parametrize("name", ["coco_precomp", "f30k", "f30k_precomp2"])
def test_only_one_name_of_the_data_makes_variant_f(name: str, tmp_path: Path) -> None:
    write(tmp_path / "best.pth.tar", "vsrn", opt=Namespace(**OPTIONS["vsrn"] | {"data_name": name}))
    assert build_matcher("vsrn", read_published(tmp_path / "best.pth.tar")).config.variant == "C"  # type: ignore[union-attr]


def test_options_that_are_missing_are_measured_or_have_their_defaults(tmp_path: Path) -> None:
    write(tmp_path / "best.pth.tar", opt=Namespace(data_name="coco_precomp"), best_rsum=None)
    found = read_published(tmp_path / "best.pth.tar")
    config = build_matcher("bfan", found).config.model_dump()  # type: ignore[union-attr, operator]
    assert {name: config[name] for name in ("vocab_size", "word_dim", "embed_size", "img_dim")} == {
        "vocab_size": 60, "word_dim": 12, "embed_size": 16, "img_dim": 16}  # fmt: skip
    assert (config["focal_type"], config["lambda_softmax"], config["no_txtnorm"]) == ("equal", 20.0, False)
    assert found.facts == {"epoch": 5, "Eiters": 123}


def test_without_a_caption_branch_none_is_built(tmp_path: Path) -> None:
    write(tmp_path / "best.pth.tar", "vsrn", model=parts_of(donor("vsrn"), "vsrn")[:2])
    found = read_published(tmp_path / "best.pth.tar")
    matcher = build_matcher("vsrn", found)
    assert load(matcher, "vsrn", found.weights) == Loaded([], [])
    assert matcher.config.caption_weight == 0  # type: ignore[union-attr]


def test_names_without_a_place_are_refused_and_told(tmp_path: Path) -> None:
    parts = parts_of(donor("bfan"), "bfan")
    parts[0]["cnn.conv1.weight"] = parts[1]["rnn.weight_ih_l7"] = torch.zeros(2)
    write(tmp_path / "best.pth.tar", model=parts)
    found = read_published(tmp_path / "best.pth.tar")
    with pytest.raises(DataError, match=r"no place for \(word_rnn\.weight_ih_l7, img_enc\.cnn\.conv1\.weight\)"):
        load(build_matcher("bfan", found), "bfan", found.weights)


@pytest.mark.parametrize(("option", "value", "told"), [
    ("rnn_type", "lstm", r"option rnn_type = 'lstm': only 'gru'"),
    ("measure", "order", r"option measure = 'order': only 'cosine'"),
    ("max_len", "long", r"option max_len = 'long': .*integer.*; the file is no checkpoint of vsrn"),
])  # fmt: skip
def test_options_that_we_do_not_have_are_refused(option: str, value: str, told: str, tmp_path: Path) -> None:
    write(tmp_path / "best.pth.tar", "vsrn", opt=Namespace(**OPTIONS["vsrn"] | {option: value}))
    with pytest.raises(DataError, match=told):
        build_matcher("vsrn", read_published(tmp_path / "best.pth.tar"))


@pytest.mark.parametrize("changes", [{"opt": None}, {"model": {"fc.weight": torch.zeros(2)}}, {"model": []},
                                     {"model": [{"fc.weight": 3}]}, {"opt": {"vocab_size": 3}}])  # fmt: skip
def test_what_is_no_checkpoint_of_this_kind_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "best.pth.tar", **changes)
    with pytest.raises(DataError, match=r"best\.pth\.tar: holds no list of state dicts with the options"):
        read_published(tmp_path / "best.pth.tar")


class Trap:
    """Leaves a mark where it is unpickled blindly."""

    def __init__(self, mark: Path) -> None:
        self.manifest = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.manifest,)


class Options(argparse.Namespace):
    """A type that looks like the one that is let in."""


@pytest.mark.parametrize("place", ["opt", "inside opt", "model", "best_rsum"])
def test_a_trap_is_refused_and_never_springs(place: str, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    changes = {"inside opt": {"opt": Namespace(logger=trap)}, "model": {"model": [{"fc.weight": trap}]}}
    write(tmp_path / "best.pth.tar", **changes.get(place, {place: trap}))
    for read in (read_published, read_weights, load_restricted):
        with pytest.raises(DataError, match=r"best\.pth\.tar: refused, it asks for \S+, which is neither a tensor"):
            read(tmp_path / "best.pth.tar")
    assert not (tmp_path / "sprung").exists()


def test_another_type_of_options_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "best.pth.tar", opt=Options(vocab_size=3))
    with pytest.raises(DataError, match=r"refused, it asks for .*Options"):
        read_published(tmp_path / "best.pth.tar")


def test_nothing_is_let_in_for_good(tmp_path: Path) -> None:
    write(tmp_path / "best.pth.tar")
    read_published(tmp_path / "best.pth.tar")
    assert Namespace not in torch.serialization.get_safe_globals()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"best\.pth\.tar: no such file; name a published"):
        read_published(tmp_path / "best.pth.tar")


def test_a_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "best.pth.tar"
    write(path)
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 8):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"best\.pth\.tar: not a whole checkpoint \(.+\); copy or save") as told:
            read_published(path)
        assert "\n" not in str(told.value)


# ---------------------------------------------------------------- LAPS: one state dict, sizes by shapes

TEXT = {"model_type": "bert", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1,
        "intermediate_size": 32, "max_position_embeddings": 20}  # fmt: skip
VIT = {"model_type": "vit", "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2,
       "intermediate_size": 48, "image_size": 24, "patch_size": 4}  # fmt: skip
SWIN = {"model_type": "swin", "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 1, 1],
        "num_heads": [1, 2, 4], "window_size": 4, "mlp_ratio": 2.0}  # fmt: skip
LAPS = {"vit": {"vision": VIT, "embed_size": 24, "sparse_ratio": 0.5, "aggr_ratio": 0.4},
        "swin": {"vision": SWIN, "embed_size": 32, "sparse_ratio": 0.8, "aggr_ratio": 0.6}}  # fmt: skip
PATCHES = {"vit": 36, "swin": 16}


def write_laps(path: Path, kind: str = "vit", opt: Any = ..., **changes: Any) -> Matcher:
    """A published file of LAPS; `changes` alter what the model is, `opt` its options (None leaves them out)."""
    settings = LAPS[kind] | {"text": TEXT} | changes
    matcher = lively(small("laps", **settings))
    options = {"num_patches": PATCHES[kind], "vit_type": kind, "embed_size": settings["embed_size"], "max_word": 50,
               "sparse_ratio": settings["sparse_ratio"], "aggr_ratio": settings["aggr_ratio"], "ratio_weight": 3.0,
               "attention_weight": 0.8, "f30k_img_path": "pictures"} if opt is ... else opt  # fmt: skip
    state = conversion.to_published("laps", matcher.state_dict())
    state["txt_enc.bert.pooler.dense.weight"] = torch.ones(64, 64)
    content = {"epoch": 3, "model": state, "best_rsum": 501.5, "Eiters": 77, "opt": options and Namespace(**options)}
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return matcher


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("width", [24, 128, 32])
def test_a_laps_is_built_by_its_shapes(kind: str, width: int, tmp_path: Path) -> None:
    """A tower of width `embed_size` has no projection: 128 is ViT's here, 32 Swin's."""
    theirs = write_laps(tmp_path / "model_best.pth", kind, embed_size=width)
    found = read_published(tmp_path / "model_best.pth", "laps")
    assert found.facts == {"epoch": 3, "Eiters": 77, "best_rsum": 501.5}
    matcher = build_matcher("laps", found)
    told = load(matcher, "laps", found.weights)
    assert told == Loaded([], ["txt_enc.bert.pooler.dense.weight"])
    assert all(torch.equal(tensor, matcher.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    config = matcher.config.model_dump()  # type: ignore[union-attr, operator]
    assert config["vision"] == {"vit": VIT, "swin": SWIN}[kind]
    assert {name: config["text"][name] for name in TEXT} == TEXT
    assert (config["max_word"], config["ratio_weight"], config["embed_size"]) == (50, 3.0, width)
    assert guess_settings("laps", found) == []


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_ratios_that_a_laps_does_not_tell_are_the_recipes(kind: str, tmp_path: Path) -> None:
    write_laps(tmp_path / "model_best.pth", kind, opt=None)
    found = read_published(tmp_path / "model_best.pth", "laps")
    matcher = build_matcher("laps", found)
    assert load(matcher, "laps", found.weights).missing == []
    config = matcher.config.model_dump()  # type: ignore[union-attr, operator]
    assert {name: config[name] for name in ("sparse_ratio", "aggr_ratio")} == {
        name: LAPS[kind][name] for name in ("sparse_ratio", "aggr_ratio")}  # fmt: skip
    told = guess_settings("laps", found)
    assert [line.split()[0] for line in told] == ["image_size"] * (kind == "swin") + ["sparse_ratio", "aggr_ratio"]


def test_a_laps_may_be_its_state_dict_alone(tmp_path: Path) -> None:
    write_laps(tmp_path / "model_best.pth")
    torch.save(torch.load(tmp_path / "model_best.pth", weights_only=False)["model"], tmp_path / "alone.pth")
    found = read_published(tmp_path / "alone.pth", "laps")
    assert (found.options, found.facts) == ({}, {})
    assert load(build_matcher("laps", found), "laps", found.weights).missing == []


def test_weights_of_a_laps_are_read_like_any_others(tmp_path: Path) -> None:
    theirs = write_laps(tmp_path / "model_best.pth")
    again = small("laps", seed=8, **LAPS["vit"] | {"text": TEXT})
    load(again, "laps", read_weights(tmp_path / "model_best.pth"))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_ratios_that_contradict_the_shapes_are_refused(tmp_path: Path) -> None:
    write_laps(tmp_path / "model_best.pth", opt={"sparse_ratio": 0.5, "aggr_ratio": 0.9})
    with pytest.raises(DataError, match=r"aggregates to 7 patches, but sparse_ratio 0\.5 and aggr_ratio 0\.9 of 36"):
        build_matcher("laps", read_published(tmp_path / "model_best.pth", "laps"))


def test_heads_that_shapes_cannot_tell_are_refused(tmp_path: Path) -> None:
    write_laps(tmp_path / "model_best.pth", vision=VIT | {"hidden_size": 96, "num_attention_heads": 2})
    with pytest.raises(DataError, match=r"img_enc\.visual_encoder\.\* is 96 wide, no multiple of the 64"):
        build_matcher("laps", read_published(tmp_path / "model_best.pth", "laps"))


@pytest.mark.parametrize(("lost", "told"), [
    ("cross_net.aggr_net.weight.3.weight", r"lacks cross_net\.aggr_net\.weight\.3\.weight"),
    ("txt_enc.bert.embeddings.word_embeddings.weight", r"lacks txt_enc\.bert\.embeddings\.word"),
    ("img_enc.visual_encoder.embeddings.cls_token", r"lacks img_enc\.visual_encoder\.encoder\.layers\.\*: neither"),
])  # fmt: skip
def test_a_laps_that_is_not_whole_is_refused(lost: str, told: str, tmp_path: Path) -> None:
    write_laps(tmp_path / "model_best.pth")
    found = read_published(tmp_path / "model_best.pth", "laps")
    del found.weights[lost]
    with pytest.raises(DataError, match=told) as error:
        build_matcher("laps", found)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"model": [{"fc.weight": torch.zeros(2)}]}, {"model": {"fc.weight": 3}},
                                     {"opt": {"sparse_ratio": 0.5}}])  # fmt: skip
def test_what_is_no_laps_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"model": {"fc.weight": torch.zeros(2)}, "opt": Namespace()} | changes, tmp_path / "best.pth")
    with pytest.raises(DataError, match=r"best\.pth: holds no state dict with the options"):
        read_published(tmp_path / "best.pth", "laps")


def test_a_laps_with_more_than_tensors_and_options_is_not_unpickled(tmp_path: Path) -> None:
    options = Namespace(sparse_ratio=Trap(tmp_path / "mark"))
    torch.save({"model": {"w": torch.zeros(2)}, "opt": options}, tmp_path / "best.pth")
    with pytest.raises(DataError, match=r"best\.pth: (refused|not a whole)"):
        read_published(tmp_path / "best.pth", "laps")
    assert not (tmp_path / "mark").exists()
