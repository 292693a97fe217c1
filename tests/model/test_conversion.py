"""model/conversion.py: published state dicts in and out."""

from __future__ import annotations

import pytest
import torch

from config.errors import DataError
from model import conversion
from tests.samples import small

MODULES = {
    "uniter.embeddings": ("LayerNorm",),
    "uniter.img_embeddings": ("img_linear", "img_layer_norm", "pos_linear", "pos_layer_norm", "LayerNorm"),
    **{f"uniter.encoder.layer.{layer}": (
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm") for layer in range(3)},
    "uniter.pooler": ("dense",),
}
TABLES = ("uniter.embeddings.word_embeddings", "uniter.embeddings.position_embeddings",
          "uniter.embeddings.token_type_embeddings", "uniter.img_embeddings.mask_embedding")
PUBLISHED = [f"{table}.weight" for table in TABLES] + [
    f"{module}.{suffix}" for suffix in ("weight", "bias")
    for module in ["itm_output", "rank_output", *(f"{top}.{part}" for top, parts in MODULES.items() for part in parts)]]
"""The names of the published checkpoints, three layers."""


def test_the_names_are_the_published_ones_exactly() -> None:
    matcher = small("uniter")
    assert sorted(conversion.to_published("uniter", matcher.state_dict())) == sorted(PUBLISHED)
    for name in matcher.state_dict():
        assert conversion.house_name("uniter", conversion.published_name("uniter", name)) == name


def test_a_parameter_without_a_published_name_is_refused() -> None:
    with pytest.raises(DataError, match=r"vision\.weight"):
        conversion.published_name("uniter", "vision.weight")


def test_deep_layers_keep_their_number() -> None:
    published = "uniter.encoder.layer.23.output.dense.bias"
    assert conversion.house_name("uniter", published) == "encoder.layers.23.contract.bias"
    assert ".layer.11.attention.self.query." in conversion.published_name("uniter", "encoder.layers.11.query.weight")


AOQ_NAMES = {
    "vsrn": {
        "img_enc.fc.weight": "regions.weight",
        "img_enc.Rs_GCN_3.W.0.bias": "graph.3.out.bias",
        "img_enc.Rs_GCN_4.W.1.running_var": "graph.4.norm.running_var",
        "img_enc.Rs_GCN_1.theta.weight": "graph.1.theta.weight",
        "img_enc.img_rnn.weight_ih_l0": "region_rnn.weight_ih_l0",
        "img_enc.bn.running_mean": "image_norm.running_mean",
        "txt_enc.rnn.bias_hh_l2": "word_rnn.bias_hh_l2",
        "caption_model.decoder.attention.linear2.weight": "caption.attention.weight",
    },
    "bfan": {
        "img_enc.fc.weight_g": "regions.weight_g",
        "txt_enc.embed.weight": "words.weight",
        "txt_enc.rnn.weight_hh_l0_reverse": "word_rnn.weight_hh_l0_reverse",
    },
}


@pytest.mark.parametrize("system", AOQ_NAMES)
def test_published_parts_have_their_names_under_a_prefix(system: str) -> None:
    for published, ours in AOQ_NAMES[system].items():
        assert conversion.house_name(system, published) == ours
        assert conversion.published_name(system, ours) == published
    assert conversion.house_name(system, "img_enc.Rs_GCN_5.g.weight") is None


def test_kernels_of_one_place_are_matrices_here() -> None:
    matcher = small("vsrn", variant="F")
    published = conversion.to_published("vsrn", matcher.state_dict())
    kernels = [name for name, tensor in published.items() if tensor.ndim == 3]
    assert len(kernels) == 16
    assert all("Rs_GCN_" in name and name.endswith(".weight") for name in kernels)
    state, ignored = conversion.to_house("vsrn", published)
    assert ignored == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in matcher.state_dict().items())


# LAPS: the towers as transformers 4.57 named them.
LAPS_NAMES = {
    "img_enc.visual_encoder.embeddings.cls_token": "vision.tower.embeddings.cls_token",
    "img_enc.visual_encoder.embeddings.patch_embeddings.projection.bias":
        "vision.tower.embeddings.patch_embeddings.projection.bias",
    "img_enc.visual_encoder.encoder.layer.11.attention.attention.query.weight":
        "vision.tower.layers.11.attention.q_proj.weight",
    "img_enc.visual_encoder.encoder.layer.3.attention.output.dense.bias": "vision.tower.layers.3.attention.o_proj.bias",
    "img_enc.visual_encoder.encoder.layer.3.output.dense.bias": "vision.tower.layers.3.mlp.fc2.bias",
    "img_enc.visual_encoder.encoder.layers.2.blocks.17.attention.self.relative_position_bias_table":
        "vision.tower.encoder.layers.2.blocks.17.attention.relative_position_bias.relative_position_bias_table",
    "img_enc.visual_encoder.encoder.layers.3.blocks.1.intermediate.dense.weight":
        "vision.tower.encoder.layers.3.blocks.1.mlp.fc1.weight",
    "img_enc.visual_encoder.encoder.layers.0.downsample.reduction.weight":
        "vision.tower.encoder.layers.0.downsample.reduction.weight",
    "img_enc.vision_proj.weight": "vision.project.weight",
    "txt_enc.bert.encoder.layer.7.attention.output.LayerNorm.bias":
        "text.tower.encoder.layer.7.attention.output.LayerNorm.bias",
    "txt_enc.fc.bias": "text.project.bias",
    "cross_net.aggr_net.weight.3.bias": "aggregate.weigh.bias",
    "cross_net.aggr_net.scale": "aggregate.scale",
}  # fmt: skip


@pytest.mark.parametrize("published", LAPS_NAMES)
def test_names_with_several_numbers_go_both_ways(published: str) -> None:
    assert conversion.house_name("laps", published) == LAPS_NAMES[published]
    assert conversion.published_name("laps", LAPS_NAMES[published]) == published
