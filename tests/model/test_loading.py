"""model/loading.py: state dicts go into matchers whole or as a part to start from, and what did not come is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from config.errors import DataError
from model import conversion
from model.loading import Loaded, RankHead, load, load_part, load_to_score, load_what_fits
from model.matcher import Matcher
from tests.samples import lively, small

SWIN = {"model_type": "swin", "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2],
        "window_size": 4}  # fmt: skip


@pytest.fixture
def donor() -> Matcher:
    return lively(small("uniter"))


@pytest.fixture
def published(donor: Matcher) -> dict[str, Tensor]:
    return conversion.to_published("uniter", donor.state_dict())


def equal(a: Matcher, b: Matcher) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def measured(state: dict[str, Tensor], rank_head_init: RankHead = "if_missing") -> tuple[Matcher, Loaded]:
    matcher = small("uniter", seed=5)
    return matcher, load_to_score(matcher, "uniter", state, "theirs.pt", rank_head_init)


def test_published_names_make_the_round_trip(donor: Matcher, published: dict[str, Tensor]) -> None:
    matcher, found = measured(published)
    assert equal(matcher, donor)
    assert found == Loaded([], [])
    assert (found.taken, found.share) == (len(donor.state_dict()), 1.0)


def test_our_own_names_are_taken_too(donor: Matcher) -> None:
    matcher, found = measured(dict(donor.state_dict()))
    assert equal(matcher, donor)
    assert found.missing == []


def test_old_suffixes_and_the_bert_prefix_are_understood(donor: Matcher, published: dict[str, Tensor]) -> None:
    old = {}
    for name, tensor in published.items():
        if "LayerNorm" in name or "layer_norm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[f"bert.{name}"] = tensor
    assert any(name.endswith("gamma") for name in old)
    matcher, _ = measured(old)
    assert equal(matcher, donor)


def test_a_plain_bert_fills_the_text_side_and_the_encoder(donor: Matcher, published: dict[str, Tensor]) -> None:
    plain = {name.replace("uniter.", "bert."): tensor for name, tensor in published.items()
             if name.startswith("uniter.") and "img_embeddings" not in name}
    matcher = small("uniter", seed=5)
    found = load_part(matcher, "uniter", plain)
    state, theirs = matcher.state_dict(), donor.state_dict()
    for name in state:
        from_bert = name.startswith(("text.", "encoder.", "pooler."))
        assert from_bert != (name in found.missing), name
        assert not from_bert or torch.equal(state[name], theirs[name]), name
    assert found.told().endswith("came from it; initialised: region.* (11), match.* (2), rank.* (2)")
    with pytest.raises(DataError, match=r"theirs\.pt: lacks 13 tensors of this uniter \(region\.feature\.weight, "):
        measured(plain)


def test_pre_training_heads_are_ignored_and_named(published: dict[str, Tensor]) -> None:
    heads = {"cls.predictions.decoder.weight": torch.ones(2), "feat_regress.net.0.weight": torch.ones(2),
             "region_classifier.net.2.weight": torch.ones(2), "uniter.embeddings.position_ids": torch.ones(2)}
    for put in (load, load_to_score, load_part, load_what_fits):
        found = put(small("uniter"), "uniter", published | heads)
        assert sorted(found.ignored) == sorted(heads)
        assert found.missing == []


DEEPER = "encoder.layers.7.contract.bias"


def test_a_deeper_model_is_no_part_of_a_shallow_one(published: dict[str, Tensor]) -> None:
    """All parameters would be filled, and all scores would be wrong."""
    deeper = published | {"uniter.encoder.layer.7.output.dense.bias": torch.ones(2)}
    for put in (load, load_to_score, load_part):
        with pytest.raises(DataError, match=r"has 1 tensor that this uniter has no place for \(encoder\.layers\.7\."):
            put(small("uniter"), "uniter", deeper)
    found = load_what_fits(small("uniter"), "uniter", deeper)
    assert found == Loaded([], [DEEPER])
    assert found.told().endswith("100 % of the model's parameters, came from it; left out of the file: encoder.* (1)")


@pytest.mark.parametrize(("system", "others"), [("vsrn", "bfan"), ("bfan", "vsrn")])
def test_weights_of_another_matcher_whose_names_fit_in_part_are_refused(system: str, others: str) -> None:
    """VSRN and BFAN share the names of their maps of regions and words, and here the shapes too."""
    theirs, ours = small(others).state_dict(), small(system, seed=5)
    assert theirs.keys() & ours.state_dict().keys()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for put in (load, load_to_score, load_part):
        for state in (theirs, conversion.to_published(others, theirs)):
            with pytest.raises(DataError, match=rf"tensors (of this {system}|that this {system} has no place for)"):
                put(ours, system, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items()), "nothing was loaded"


@pytest.mark.parametrize("put", [load, load_to_score])
@pytest.mark.parametrize("system", ["uniter", "vsrn", "bfan", "laps"])
def test_a_missing_tensor_of_any_system_is_refused_by_its_name(put: object, system: str) -> None:
    state = dict(small(system).state_dict())
    lost = next(name for name in state if name.endswith("weight"))
    del state[lost]
    with pytest.raises(DataError, match=rf"lacks 1 tensor of this {system} \({lost}\)"):
        put(small(system, seed=5), system, state)  # type: ignore[operator]


def test_what_no_score_hangs_on_may_be_absent_from_weights_that_are_measured() -> None:
    whole, scores_alone = small("vsrn"), small("vsrn", caption_weight=0.0)
    without = {name: t for name, t in whole.state_dict().items() if not name.startswith("caption.")}
    missing = load_to_score(small("vsrn", seed=5), "vsrn", without).missing
    assert {name.partition(".")[0] for name in missing} == {"caption"}
    assert all(name.startswith("caption.") for name in load_to_score(scores_alone, "vsrn", whole.state_dict()).ignored)
    for model, state in ((small("vsrn"), without), (scores_alone, whole.state_dict())):
        with pytest.raises(DataError, match=r"vsrn"):
            load(model, "vsrn", state)


def test_another_variant_of_a_system_is_not_measured() -> None:
    """VSRN's batch norm of the image embedding is in one variant alone."""
    theirs = small("vsrn", variant="F").state_dict()
    with pytest.raises(DataError, match=r"has 5 tensors that this vsrn has no place for \(image_norm\.weight"):
        load_to_score(small("vsrn", variant="C"), "vsrn", theirs)
    found = load_part(small("vsrn", variant="C"), "vsrn", theirs)
    assert found.missing == []
    assert len(found.ignored) == 5


def test_what_fits_is_taken_where_that_is_asked_for() -> None:
    theirs, ours = small("bfan", word_dim=9).state_dict(), small("vsrn", seed=5)
    found = load_what_fits(ours, "vsrn", theirs)
    assert torch.equal(ours.state_dict()["regions.weight"], theirs["regions.weight"])
    assert "words.weight" in found.missing
    assert "words.weight" in found.ignored, "of another shape"
    assert 0 < found.share < 0.5


def without_rank(published: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in published.items() if not name.startswith("rank_output")}


def test_the_rank_head_starts_as_the_matching_row_where_there_is_none(published: dict[str, Tensor]) -> None:
    matcher, found = measured(without_rank(published))
    assert torch.equal(matcher.state_dict()["rank.weight"], published["itm_output.weight"][1:])
    assert torch.equal(matcher.state_dict()["rank.bias"], published["itm_output.bias"][1:])
    assert found.missing == []


def test_a_trained_rank_head_is_kept_unless_told_otherwise(published: dict[str, Tensor]) -> None:
    kept, _ = measured(published)
    assert torch.equal(kept.state_dict()["rank.weight"], published["rank_output.weight"])
    renewed, _ = measured(published, rank_head_init="always")
    assert torch.equal(renewed.state_dict()["rank.weight"], published["itm_output.weight"][1:])


def test_the_rank_head_shares_no_memory_with_the_matching_head(published: dict[str, Tensor]) -> None:
    before = published["itm_output.weight"].clone()
    matcher, _ = measured(without_rank(published))
    with torch.no_grad():
        matcher.rank.weight.add_(1)  # type: ignore[union-attr, operator]
    assert torch.equal(matcher.state_dict()["match.weight"], before)
    assert torch.equal(published["itm_output.weight"], before)


def test_half_precision_tensors_become_the_models_type(published: dict[str, Tensor]) -> None:
    matcher, _ = measured({name: tensor.half() for name, tensor in published.items()})
    for name, tensor in matcher.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, published[conversion.published_name("uniter", name)].half().float())


@pytest.mark.parametrize("names", ["published", "ours"])
def test_another_shape_names_the_parameter_and_both_shapes(donor: Matcher, names: str) -> None:
    wide = lively(small("uniter", vocab_size=61))
    state = conversion.to_published("uniter", wide.state_dict()) if names == "published" else dict(wide.state_dict())
    before = small("uniter", seed=5)
    with pytest.raises(DataError, match=r"text\.words\.weight is \[61, 16\] but the model wants \[60, 16\]") as told:
        load(before, "uniter", state)
    assert "\n" not in str(told.value)
    assert equal(before, small("uniter", seed=5)), "nothing was loaded"


def test_a_checkpoint_of_something_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"none of its 2 tensors"):
        measured({"conv1.weight": torch.ones(3), "fc.bias": torch.ones(3)})
    with pytest.raises(DataError, match="none of its 0 tensors"):
        measured({})


def test_counters_of_batch_norms_are_carried_over_and_may_be_absent() -> None:
    model = small("vsrn")
    published = conversion.to_published("vsrn", model.state_dict())
    counters = [name for name in published if name.endswith("num_batches_tracked")]
    assert counters
    published[counters[0]] = torch.tensor(3)
    for name in counters[1:]:
        del published[name]
    assert load(model, "vsrn", published) == Loaded([], [])
    assert model.state_dict()[conversion.house_name("vsrn", counters[0])] == 3


def laps(kind: str, seed: int = 0) -> Matcher:
    return small("laps", seed, **({"vision": SWIN} if kind == "swin" else {}), embed_size=24)


def old_names(kind: str) -> tuple[Matcher, dict[str, Tensor]]:
    """A model, and its weights under published names with what an old library wrote besides."""
    donor = lively(laps(kind))
    published = conversion.to_published("laps", donor.state_dict())
    besides = {"img_enc.visual_encoder.pooler.dense.weight": torch.ones(3, 3),
               "txt_enc.bert.pooler.dense.bias": torch.ones(3),
               "txt_enc.bert.embeddings.position_ids": torch.arange(9)[None]}  # fmt: skip
    if kind == "swin":
        block = "img_enc.visual_encoder.encoder.layers.1.blocks.0.attention.self"
        besides[f"{block}.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    return donor, published | besides


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_a_published_laps_is_loaded_and_goes_back(kind: str) -> None:
    donor, published = old_names(kind)
    assert not [name for name in published if "q_proj" in name or "fc1" in name]
    matcher = laps(kind, seed=5)
    found = load(matcher, "laps", published)
    assert equal(matcher, donor)
    assert found.missing == []
    assert {name.rpartition(".")[2] for name in found.ignored} <= {"weight", "bias", "position_ids",
                                                                   "relative_position_index"}  # fmt: skip
    assert len(found.ignored) == (4 if kind == "swin" else 3), "poolers and buffers alone"
    again = conversion.to_published("laps", matcher.state_dict())
    assert again.keys() == published.keys() - set(found.ignored)


def test_our_own_names_of_laps_are_taken_too() -> None:
    donor = lively(laps("vit"))
    matcher = laps("vit", seed=5)
    assert load(matcher, "laps", donor.state_dict()) == Loaded([], [])
    assert equal(matcher, donor)


@pytest.mark.parametrize("prefix", ["cross_net.aggr_net.", ""])
def test_parts_of_laps_are_taken_where_they_are_asked_for(prefix: str) -> None:
    donor, published = old_names("vit")
    net = {prefix + name.removeprefix("cross_net.aggr_net."): t for name, t in published.items() if "cross_net" in name}
    assert len(net) == 7
    matcher, before = laps("vit", seed=5), laps("vit", seed=5).state_dict()
    found = load_part(matcher, "laps", net)
    for name, tensor in matcher.state_dict().items():
        own = name.startswith("aggregate.")
        assert own != (name in found.missing)
        assert torch.equal(tensor, (donor.state_dict() if own else before)[name])
    with pytest.raises(DataError, match=r"lacks \d+ tensors of this laps \(vision\.tower"):
        load(matcher, "laps", net)


def test_half_a_part_of_laps_is_refused() -> None:
    _, published = old_names("vit")
    matcher = laps("vit", seed=5)
    del published["txt_enc.bert.encoder.layer.1.output.dense.bias"]
    lacking = r"lacks 1 tensor of this laps \(text\.tower\.encoder\.layer\.1\.output\.dense\.bias\); use the matcher"
    for put in (load, load_to_score, load_part):
        with pytest.raises(DataError, match=lacking):
            put(matcher, "laps", published)
    assert equal(matcher, laps("vit", seed=5)), "nothing was loaded"


@pytest.mark.parametrize("strange", ["img_enc.visual_encoder.encoder.layer.7.output.dense.bias", "criterion.weight",
                                     "txt_enc.gru.weight"])  # fmt: skip
def test_strange_names_in_a_laps_are_refused_and_told(strange: str) -> None:
    _, published = old_names("vit")
    with pytest.raises(DataError, match="has 1 tensor that this laps has no place for") as told:
        load(laps("vit"), "laps", published | {strange: torch.ones(2)})
    assert (conversion.house_name("laps", strange) or strange) in str(told.value)


def test_a_laps_of_other_sizes_is_refused() -> None:
    _, published = old_names("vit")
    other = small("laps", vision={"model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 16,
                                  "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
                  embed_size=24, aggr_ratio=1.0)  # fmt: skip
    with pytest.raises(DataError, match=r"position_embeddings is \[1, 17, 16\] but the model wants \[1, 5, 16\]"):
        load(other, "laps", published)
