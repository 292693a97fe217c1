"""model/adapt.py: published state dicts in and out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from config.errors import DataError
from model import adapt
from model.matcher import Matcher
from tests.samples import lively, small

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


@pytest.fixture
def donor() -> Matcher:
    return lively(small("uniter"))


@pytest.fixture
def published(donor: Matcher) -> dict[str, Tensor]:
    return adapt.to_published("uniter", donor.state_dict())


def equal(a: Matcher, b: Matcher) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def loaded(state: dict[str, Tensor], **settings: str) -> tuple[Matcher, adapt.Loaded]:
    matcher = small("uniter", seed=5)
    return matcher, adapt.load(matcher, "uniter", state, **settings)


def test_the_names_are_the_published_ones_exactly(published: dict[str, Tensor]) -> None:
    assert sorted(published) == sorted(PUBLISHED)


def test_published_names_make_the_round_trip(donor: Matcher, published: dict[str, Tensor]) -> None:
    matcher, found = loaded(published)
    assert equal(matcher, donor)
    assert found == adapt.Loaded([], [])
    for name in donor.state_dict():
        assert adapt.house_name("uniter", adapt.published_name("uniter", name)) == name


def test_our_own_names_are_taken_too(donor: Matcher) -> None:
    matcher, found = loaded(dict(donor.state_dict()))
    assert equal(matcher, donor)
    assert found.missing == []


def test_old_suffixes_and_the_bert_prefix_are_understood(donor: Matcher, published: dict[str, Tensor]) -> None:
    old = {}
    for name, tensor in published.items():
        if "LayerNorm" in name or "layer_norm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[f"bert.{name}"] = tensor
    assert any(name.endswith("gamma") for name in old)
    matcher, _ = loaded(old)
    assert equal(matcher, donor)


def test_a_plain_bert_fills_the_text_side_and_the_encoder(donor: Matcher, published: dict[str, Tensor]) -> None:
    plain = {name.replace("uniter.", "bert."): tensor for name, tensor in published.items()
             if name.startswith("uniter.") and "img_embeddings" not in name}
    matcher, found = loaded(plain)
    state, theirs = matcher.state_dict(), donor.state_dict()
    for name in state:
        from_bert = name.startswith(("text.", "encoder.", "pooler."))
        assert from_bert != (name in found.missing), name
        assert not from_bert or torch.equal(state[name], theirs[name]), name


def test_pre_training_heads_are_ignored_and_named(published: dict[str, Tensor]) -> None:
    extra = {"cls.predictions.decoder.weight": torch.ones(2), "feat_regress.net.0.weight": torch.ones(2),
             "region_classifier.net.2.weight": torch.ones(2), "uniter.encoder.layer.7.output.dense.bias": torch.ones(2)}
    _, found = loaded(published | extra)
    assert len(found.ignored) == 4
    assert found.missing == []


def without_rank(published: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in published.items() if not name.startswith("rank_output")}


def test_the_rank_head_starts_as_the_matching_row_where_there_is_none(published: dict[str, Tensor]) -> None:
    matcher, found = loaded(without_rank(published))
    assert torch.equal(matcher.state_dict()["rank.weight"], published["itm_output.weight"][1:])
    assert torch.equal(matcher.state_dict()["rank.bias"], published["itm_output.bias"][1:])
    assert found.missing == []


def test_a_trained_rank_head_is_kept_unless_told_otherwise(published: dict[str, Tensor]) -> None:
    kept, _ = loaded(published)
    assert torch.equal(kept.state_dict()["rank.weight"], published["rank_output.weight"])
    renewed, _ = loaded(published, rank_head_init="always")
    assert torch.equal(renewed.state_dict()["rank.weight"], published["itm_output.weight"][1:])


def test_the_rank_head_shares_no_memory_with_the_matching_head(published: dict[str, Tensor]) -> None:
    before = published["itm_output.weight"].clone()
    matcher, _ = loaded(without_rank(published))
    with torch.no_grad():
        matcher.rank.weight.add_(1)  # type: ignore[union-attr, operator]
    assert torch.equal(matcher.state_dict()["match.weight"], before)
    assert torch.equal(published["itm_output.weight"], before)


def test_half_precision_tensors_become_the_models_type(published: dict[str, Tensor]) -> None:
    matcher, _ = loaded({name: tensor.half() for name, tensor in published.items()})
    for name, tensor in matcher.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, published[adapt.published_name("uniter", name)].half().float())


@pytest.mark.parametrize("names", ["published", "ours"])
def test_another_shape_names_the_parameter_and_both_shapes(donor: Matcher, names: str) -> None:
    wide = lively(small("uniter", vocab_size=61))
    state = adapt.to_published("uniter", wide.state_dict()) if names == "published" else dict(wide.state_dict())
    before = small("uniter", seed=5)
    with pytest.raises(DataError, match=r"text\.words\.weight is \[61, 16\] but the model wants \[60, 16\]") as told:
        adapt.load(before, "uniter", state)
    assert "\n" not in str(told.value)
    assert equal(before, small("uniter", seed=5)), "nothing was loaded"


def test_a_checkpoint_of_something_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"none of its 2 tensors"):
        loaded({"conv1.weight": torch.ones(3), "fc.bias": torch.ones(3)})
    with pytest.raises(DataError, match="none of its 0 tensors"):
        loaded({})


def test_a_parameter_without_a_published_name_is_refused() -> None:
    with pytest.raises(DataError, match=r"vision\.weight"):
        adapt.published_name("uniter", "vision.weight")


def test_deep_layers_keep_their_number() -> None:
    assert adapt.house_name("uniter", "uniter.encoder.layer.23.output.dense.bias") == "encoder.layers.23.contract.bias"
    assert ".layer.11.attention.self.query." in adapt.published_name("uniter", "encoder.layers.11.query.weight")


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
        assert adapt.house_name(system, published) == ours
        assert adapt.published_name(system, ours) == published
    assert adapt.house_name(system, "img_enc.Rs_GCN_5.g.weight") is None


def test_kernels_of_one_place_are_matrices_here() -> None:
    matcher = small("vsrn", variant="F")
    published = adapt.to_published("vsrn", matcher.state_dict())
    kernels = [name for name, tensor in published.items() if tensor.ndim == 3]
    assert len(kernels) == 16
    assert all("Rs_GCN_" in name and name.endswith(".weight") for name in kernels)
    state, ignored = adapt.to_house("vsrn", published)
    assert ignored == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in matcher.state_dict().items())


def test_counters_of_batch_norms_are_carried_over_and_may_be_absent() -> None:
    model = small("vsrn")
    published = adapt.to_published("vsrn", model.state_dict())
    counters = [name for name in published if name.endswith("num_batches_tracked")]
    assert counters
    published[counters[0]] = torch.tensor(3)
    for name in counters[1:]:
        del published[name]
    assert adapt.load(model, "vsrn", published) == adapt.Loaded([], [])
    assert model.state_dict()[adapt.house_name("vsrn", counters[0])] == 3


# LAPS: the towers as transformers 4.57 named them.
SWIN = {"model_type": "swin", "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2],
        "window_size": 4}  # fmt: skip
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


def laps(kind: str, seed: int = 0) -> Matcher:
    return small("laps", seed, **({"vision": SWIN} if kind == "swin" else {}), embed_size=24)


def old_names(kind: str) -> tuple[Matcher, dict[str, Tensor]]:
    """A model, and its weights under published names with what an old library wrote besides."""
    donor = lively(laps(kind))
    published = adapt.to_published("laps", donor.state_dict())
    besides = {"img_enc.visual_encoder.pooler.dense.weight": torch.ones(3, 3),
               "txt_enc.bert.pooler.dense.bias": torch.ones(3),
               "txt_enc.bert.embeddings.position_ids": torch.arange(9)[None]}  # fmt: skip
    if kind == "swin":
        block = "img_enc.visual_encoder.encoder.layers.1.blocks.0.attention.self"
        besides[f"{block}.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    return donor, published | besides


@pytest.mark.parametrize("published", LAPS_NAMES)
def test_names_with_several_numbers_go_both_ways(published: str) -> None:
    assert adapt.house_name("laps", published) == LAPS_NAMES[published]
    assert adapt.published_name("laps", LAPS_NAMES[published]) == published


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_a_published_laps_is_loaded_and_goes_back(kind: str) -> None:
    donor, published = old_names(kind)
    assert not [name for name in published if "q_proj" in name or "fc1" in name]
    matcher = laps(kind, seed=5)
    found = adapt.load(matcher, "laps", published)
    assert equal(matcher, donor)
    assert found.missing == []
    assert {name.rpartition(".")[2] for name in found.ignored} <= {"weight", "bias", "position_ids",
                                                                   "relative_position_index"}  # fmt: skip
    assert len(found.ignored) == (4 if kind == "swin" else 3), "poolers and buffers alone"
    again = adapt.to_published("laps", matcher.state_dict())
    assert again.keys() == published.keys() - set(found.ignored)


def test_our_own_names_of_laps_are_taken_too() -> None:
    donor = lively(laps("vit"))
    matcher = laps("vit", seed=5)
    assert adapt.load(matcher, "laps", donor.state_dict()) == adapt.Loaded([], [])
    assert equal(matcher, donor)


@pytest.mark.parametrize("prefix", ["cross_net.aggr_net.", ""])
def test_parts_of_laps_are_taken_where_they_are_asked_for(prefix: str) -> None:
    donor, published = old_names("vit")
    net = {prefix + name.removeprefix("cross_net.aggr_net."): t for name, t in published.items() if "cross_net" in name}
    assert len(net) == 7
    matcher, before = laps("vit", seed=5), laps("vit", seed=5).state_dict()
    found = adapt.load(matcher, "laps", net, parts=True)
    for name, tensor in matcher.state_dict().items():
        own = name.startswith("aggregate.")
        assert own != (name in found.missing)
        assert torch.equal(tensor, (donor.state_dict() if own else before)[name])
    with pytest.raises(DataError, match=r"lacks \d+ tensors of this laps \(vision\.tower"):
        adapt.load(matcher, "laps", net)


def test_half_a_part_of_laps_is_refused() -> None:
    _, published = old_names("vit")
    matcher = laps("vit", seed=5)
    del published["txt_enc.bert.encoder.layer.1.output.dense.bias"]
    lacking = r"lacks 1 tensors of this laps \(text\.tower\.encoder\.layer\.1\.output\.dense\.bias\); use the matcher"
    for parts in (False, True):
        with pytest.raises(DataError, match=lacking):
            adapt.load(matcher, "laps", published, parts=parts)
    assert equal(matcher, laps("vit", seed=5)), "nothing was loaded"


@pytest.mark.parametrize("strange", ["img_enc.visual_encoder.encoder.layer.7.output.dense.bias", "criterion.weight",
                                     "txt_enc.gru.weight"])  # fmt: skip
def test_strange_names_in_a_laps_are_refused_and_told(strange: str) -> None:
    _, published = old_names("vit")
    with pytest.raises(DataError, match="has 1 tensors that this laps has no place for") as told:
        adapt.load(laps("vit"), "laps", published | {strange: torch.ones(2)})
    assert (adapt.house_name("laps", strange) or strange) in str(told.value)


def test_a_laps_of_other_sizes_is_refused() -> None:
    _, published = old_names("vit")
    other = small("laps", vision={"model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 16,
                                  "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
                  embed_size=24, aggr_ratio=1.0)  # fmt: skip
    with pytest.raises(DataError, match=r"position_embeddings is \[1, 17, 16\] but the model wants \[1, 5, 16\]"):
        adapt.load(other, "laps", published)
