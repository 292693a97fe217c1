"""train/checkpointing/export.py: weights in the published layout, and back without a difference."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from config.errors import ConfigError, DataError
from model.conversion import system_of, take_rank_row, to_house
from model.loading import load, load_to_score
from model.matcher import Matcher
from tests.samples import batch_for, lively, small
from train.checkpointing.export import build_published_matcher, data_name, published_content, write_published
from train.checkpointing.published import build_matcher, guess_settings, read_published

ODD: dict[str, dict[str, Any]] = {
    "uniter": {},
    "vsrn": {"variant": "F", "use_abs": True, "input_dropout_p": 0.1, "bidirectional": True, "num_layers": 2},
    "bfan": {"focal_type": "prob", "lambda_softmax": 9.0, "precomp_enc_type": "weight_norm", "no_txtnorm": True},
    "laps": {"sparse_ratio": 0.6, "max_word": 50, "embed_size": 24, "leaky": False, "recompute_layers": True},
}
"""Settings of each system that are not the defaults."""
READ = {
    "vsrn": {"data_name": "f30k_precomp", "dim_vid": 16, "rnn_type": "gru", "measure": "cosine", "bidirectional": 1,
             "max_len": 7, "rnn_dropout_p": 0.5, "no_imgnorm": False, "margin": 0.3, "batch_size": 12,
             "vocab_path": "v"},
    "bfan": {"focal_type": "prob", "lambda_softmax": 9.0, "precomp_enc_type": "weight_norm", "no_txtnorm": True,
             "vocab_size": 60, "word_dim": 12, "embed_size": 16, "img_dim": 16, "num_layers": 1, "marginonline": 0.4},
    "laps": {"vit_type": "vit", "num_patches": 16, "sparse_ratio": 0.6, "aggr_ratio": 0.4, "embed_size": 24,
             "max_word": 50},
}  # fmt: skip
"""Options that the published programs read, and what they must find there."""
RUNS: dict[str, dict[str, Any]] = {
    "vsrn": {"objective": {"margin": 0.3}, "optim": {"train_batch_size": 12}, "_note": {"step": 77, "epoch": 3}},
    "bfan": {"objective": {"margin_online": 0.4}},
}


@pytest.fixture(params=sorted(ODD))
def model(request: pytest.FixtureRequest) -> Matcher:
    return lively(small(request.param, **ODD[request.param]))


def scores(matcher: Matcher) -> Tensor:
    batch = batch_for(matcher.eval(), [5, 3, 4], [6, 9, 4, 5])
    with torch.inference_mode():
        return matcher(batch).scores["match"]


def exported(matcher: Matcher, path: Path, **given: Any) -> dict[str, Any]:
    """The content of a published file of this model, which is written too."""
    content, _ = published_content(matcher, RUNS.get(matcher.config.name, {}), given)
    write_published(path, content)
    return content


def test_weights_and_settings_come_back_without_a_difference(model: Matcher, tmp_path: Path) -> None:
    system = model.config.name
    exported(model, tmp_path / "best.pth.tar")
    found = read_published(tmp_path / "best.pth.tar", system)
    if system == "uniter":  # a state dict alone, as published; heads are taken to be 64 wide
        again = small(system, seed=9)
    else:
        again = build_matcher(system, found)
        assert again.config == model.config
        assert guess_settings(system, found) == []
    load(again, system, take_rank_row(found.weights))
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(scores(again), scores(model))


def test_the_published_evaluation_of_uniter_ranks_by_the_trained_head(tmp_path: Path) -> None:
    """It always replaces the rank head by row 1 of the matching head."""
    model = lively(small("uniter"))
    content = exported(model, tmp_path / "model.pt")
    assert all(isinstance(tensor, Tensor) for tensor in content.values()), "a plain state dict"
    there = small("uniter", seed=9)
    load_to_score(there, "uniter", read_published(tmp_path / "model.pt", "uniter").weights, rank_head_init="always")
    assert torch.equal(scores(there), scores(model))
    unchanged, _ = to_house("uniter", take_rank_row(content))
    assert torch.equal(unchanged["match.weight"], model.state_dict()["match.weight"])
    assert not torch.equal(content["itm_output.weight"], model.state_dict()["match.weight"])


@pytest.mark.parametrize("system", sorted(READ))
def test_the_published_programs_find_all_that_they_read(system: str, tmp_path: Path) -> None:
    model = lively(small(system, **ODD[system]))
    exported(model, tmp_path / "best.pth.tar", **({"vocab_path": "v"} if system == "vsrn" else {}))
    with torch.serialization.safe_globals([Namespace]):
        content = torch.load(tmp_path / "best.pth.tar", weights_only=True)
    assert content.keys() == {"model", "opt", "epoch", "best_rsum", "Eiters"}
    options = vars(content["opt"])
    assert {name: options.get(name) for name in READ[system]} == READ[system]
    assert (content["epoch"], content["Eiters"]) == ((3, 77) if system == "vsrn" else (0, 0))
    assert isinstance(content["model"], dict if system == "laps" else list)
    assert (tmp_path / "best.pth.tar").read_bytes()[:2] != b"PK", "torch's old format"


def test_options_that_contradict_the_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--option embed_size=7 \(here 16\): contradicts the weights"):
        published_content(small("bfan"), {}, {"embed_size": 7})
    content, _ = published_content(small("bfan"), {}, {"embed_size": 16, "logger_name": "runs"})
    assert vars(content["opt"])["logger_name"] == "runs"


def test_weights_of_another_system_are_told_as_such() -> None:
    run = {"matcher": {"name": "bfan"}}
    with pytest.raises(DataError, match="these are weights of matcher bfan, not of vsrn; leave --matcher out"):
        build_published_matcher("vsrn", small("bfan").state_dict(), run)


def test_parts_are_those_of_the_published_lists(tmp_path: Path) -> None:
    vsrn = exported(small("vsrn"), tmp_path / "vsrn.pth.tar")["model"]
    assert [next(iter(part)).split(".")[0] for part in vsrn] == ["fc", "embed", "encoder"]
    assert vsrn[0]["Rs_GCN_1.theta.weight"].shape == (16, 16, 1)
    assert len(exported(small("vsrn", caption_weight=0.0), tmp_path / "without.pth.tar")["model"]) == 2
    assert len(exported(small("bfan"), tmp_path / "bfan.pth.tar")["model"]) == 2


def test_the_data_of_vsrn_says_its_variant() -> None:
    assert (data_name("F", {}), data_name("C", {})) == ("f30k_precomp", "coco_precomp")
    assert data_name("C", {"data_name": "mine"}) == "mine"
    with pytest.raises(ConfigError, match=r"--option data_name=f30k_precomp: .* another variant of VSRN for it than C"):
        data_name("C", {"data_name": "f30k_precomp"})


def test_what_the_published_programs_compute_otherwise_is_told_or_refused() -> None:
    _, notes = published_content(small("vsrn", region_norm_axis="features"), {}, {})
    assert notes == ["the published program computes region_norm_axis=regions; here it is features"]
    for settings in ({"alignment": "pooled"}, {"score_net": True}):
        name = next(iter(settings))
        with pytest.raises(DataError, match=rf"{name}=\w+: the published laps has no place for such weights"):
            published_content(small("laps", **settings), {}, {})


@pytest.mark.parametrize("names", ["ours", "published"])
def test_the_system_is_read_off_the_names(model: Matcher, names: str) -> None:
    state = dict(model.state_dict())
    if names == "published":
        content, _ = published_content(model, {}, {})
        parts = content.get("model", content)
        prefixes = ("img_enc.", "txt_enc.", "caption_model.")
        listed = zip(prefixes, parts, strict=False) if isinstance(parts, list) else [("", parts)]
        state = {prefix + name: tensor for prefix, part in listed for name, tensor in part.items()}
    assert system_of(state) == model.config.name


def test_weights_of_nothing_have_no_system() -> None:
    assert system_of({"conv1.weight": torch.zeros(1)}) is None


def test_weights_alone_are_those_of_a_matcher_by_their_shapes() -> None:
    theirs = lively(small("vsrn", variant="F", num_layers=2, bidirectional=True))
    found = build_published_matcher("vsrn", theirs.state_dict(), {})
    assert torch.equal(scores(found), scores(theirs))
    lacking = {name: tensor for name, tensor in theirs.state_dict().items() if name != "image_norm.bias"}
    with pytest.raises(DataError, match=r"lacks 1 tensor of this vsrn \(image_norm\.bias\)"):
        build_published_matcher("vsrn", lacking, {})
