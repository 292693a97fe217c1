"""model/parts/backbone.py: towers of transformers from a config dict."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from config.errors import ConfigError
from data.batches.batch import Ragged
from model.parts.backbone import TextTower, VisionTower, scaled

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
       "intermediate_size": 64, "image_size": 32, "patch_size": 8}  # fmt: skip
SWIN = {"model_type": "swin", "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2, 2],
        "num_heads": [2, 2, 4], "window_size": 4, "drop_path_rate": 0.3}  # fmt: skip
BERT = {"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 40}  # fmt: skip
TOWERS = {"vit": VIT, "swin": SWIN}


def eyes(config: dict[str, Any], embed_size: int = 24, seed: int = 0, recompute: bool = False) -> VisionTower:
    torch.manual_seed(seed)
    return VisionTower(config, embed_size, MEAN, STD, recompute)


def reader(embed_size: int = 24, seed: int = 0, recompute: bool = False, **settings: Any) -> TextTower:
    torch.manual_seed(seed)
    return TextTower(BERT | settings, embed_size, recompute)


def pixels(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def captions(lengths: list[int]) -> Ragged:
    ids = torch.randint(1, 50, (sum(lengths),), generator=torch.Generator().manual_seed(2))
    return Ragged.of(ids, torch.tensor(lengths))


@pytest.mark.parametrize(("kind", "tokens", "has_cls"), [("vit", 17, True), ("swin", 16, False)])
def test_a_picture_becomes_tokens(kind: str, tokens: int, has_cls: bool) -> None:
    tower = eyes(TOWERS[kind]).eval()
    assert (tower.side, tower.patches, tower.has_cls, tower.width) == (32, 16, has_cls, 32)
    assert tower(pixels(3, 32)).shape == (3, tokens, 24)
    assert tower.tower.config._attn_implementation == "sdpa"
    assert not [name for name in tower.state_dict() if "pooler" in name or "mean" in name or "std" in name]


@pytest.mark.parametrize(("size", "config", "patches"), [
    ("vit-384", {"model_type": "vit", "image_size": 384, "num_hidden_layers": 1}, 576),
    ("swin-384", {"model_type": "swin", "image_size": 384, "window_size": 12, "depths": [1, 1, 1, 1]}, 144),
    ("swin-224", {"model_type": "swin", "depths": [1, 1, 1, 1]}, 49),
    ("swin, odd grid", SWIN | {"image_size": 36}, 25),
])  # fmt: skip
def test_the_number_of_patches_follows_from_the_config(size: str, config: dict[str, Any], patches: int) -> None:
    tower = eyes(config).eval()
    assert tower.patches == patches
    with torch.no_grad():
        assert tower(pixels(1, tower.side)).shape[1] == patches + tower.has_cls


def test_pixels_are_scaled_and_normalised() -> None:
    raw = pixels(2, 4)
    found = scaled(raw, torch.tensor(MEAN), torch.tensor(STD))
    wanted = (raw.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)


def test_floats_are_taken_as_they_are() -> None:
    tower = eyes(VIT).eval()
    assert torch.equal(tower(pixels(2, 32)), tower(scaled(pixels(2, 32), tower.mean, tower.std)))
    assert not torch.allclose(tower(pixels(2, 32)), tower(pixels(2, 32).float()))


def test_nothing_is_projected_where_widths_agree() -> None:
    for tower in (eyes(VIT, 32), reader(32)):
        assert not [name for name in tower.state_dict() if name.startswith("project")]
    for tower in (eyes(VIT, 16), reader(16)):
        assert tower.state_dict()["project.weight"].shape == (16, 32)


@pytest.mark.parametrize("kind", ["vit", "swin", "bert"])
def test_a_seed_decides_the_weights(kind: str) -> None:
    first, again, other = ((reader(seed=seed) if kind == "bert" else eyes(TOWERS[kind], seed=seed)).state_dict()
                           for seed in (3, 3, 4))  # fmt: skip
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_captions_are_read_without_their_neighbours() -> None:
    tower = reader().eval()
    assert (tower.vocab_size, tower.longest, tower.width) == (50, 40, 32)
    texts = captions([5, 9, 1])
    together = tower(texts)
    assert together.values.shape == (15, 24)
    assert torch.equal(together.offsets, texts.offsets)
    for number in range(3):
        alone = tower(texts.slice(number, number + 1)).values
        torch.testing.assert_close(alone, together.slice(number, number + 1).values, rtol=1e-4, atol=1e-6)


def test_a_word_of_id_zero_keeps_its_place_but_is_not_attended_to() -> None:
    tower = reader().eval()
    with_zero = Ragged.of(torch.tensor([7, 0, 9]), torch.tensor([3]))
    found = tower(with_zero).values
    assert found.shape == (3, 24)
    table = tower.tower.embeddings.word_embeddings.weight
    with torch.no_grad():
        table[0] += 5 * torch.randn(32)
    changed = tower(with_zero).values
    torch.testing.assert_close(changed[[0, 2]], found[[0, 2]])
    assert not torch.allclose(changed[1], found[1], atol=1e-3)


def gradients(tower: torch.nn.Module, given: Any) -> dict[str, Tensor]:
    torch.manual_seed(9)
    found = tower.train()(given)
    values = found.values if isinstance(found, Ragged) else found
    (values * torch.linspace(-1, 1, values.shape[-1])).sum().backward()
    return {name: parameter.grad for name, parameter in tower.named_parameters()}


@pytest.mark.parametrize("kind", ["vit", "swin", "bert"])
def test_computing_layers_again_changes_no_gradient(kind: str) -> None:
    """With dropout and dropped paths: the draws are the same the second time."""
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    given = captions([6, 3]) if kind == "bert" else pixels(2, 32)
    towers = [reader(recompute=again, **dropout) if kind == "bert" else eyes(TOWERS[kind] | dropout, recompute=again)
              for again in (False, True)]  # fmt: skip
    plain, again = (gradients(tower, given) for tower in towers)
    assert all(gradient is not None for gradient in plain.values()), "every parameter takes part"
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name


def kept_bytes(tower: torch.nn.Module, given: Any) -> int:
    """What the forward pass keeps for the backward pass, the parameters aside."""
    own = {parameter.data_ptr() for parameter in tower.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = tower.train()(given)
    assert found is not None
    return sum(kept.values())


@pytest.mark.parametrize("kind", ["vit", "swin", "bert"])
def test_computing_layers_again_keeps_less(kind: str) -> None:
    given = captions([30] * 4) if kind == "bert" else pixels(4, 32)
    towers = [reader(recompute=again) if kind == "bert" else eyes(TOWERS[kind], recompute=again)
              for again in (False, True)]  # fmt: skip
    plain, again = (kept_bytes(tower, given) for tower in towers)
    assert again < 0.5 * plain


def test_layers_inside_layers_are_computed_again_once() -> None:
    tower = eyes(SWIN, recompute=True).tower.train()
    counts: dict[str, int] = {}
    for name, module in tower.named_modules():
        if name.endswith("layernorm_before"):
            module.register_forward_hook(lambda *_, name=name: counts.update({name: counts.get(name, 0) + 1}))
    tower(pixel_values=torch.randn(1, 3, 32, 32)).last_hidden_state.sum().backward()
    assert set(counts.values()) == {2}


SMALL = {name: VIT[name] for name in VIT if name != "model_type"}


@pytest.mark.parametrize(("config", "patches", "has_cls"), [
    ({"model_type": "beit", "has_cls": True, **SMALL}, 16, True),
    ({"model_type": "siglip_vision_model", "has_cls": False, **SMALL}, 16, False),
    ({"model_type": "convnext", "has_cls": False, "image_size": 64, "depths": [1, 1, 1, 1],
      "hidden_sizes": [8, 8, 8, 32]}, 4, False),
])  # fmt: skip
def test_other_vision_models_work_if_they_say_what_their_first_token_is(
    config: dict[str, Any], patches: int, has_cls: bool
) -> None:
    tower = eyes(config)
    assert (tower.patches, tower.has_cls, tower.width) == (patches, has_cls, 32)
    found = tower(pixels(2, tower.side))
    assert found.shape == (2, patches + has_cls, 24)
    found.sum().backward()
    trained = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None for parameter in trained), "what takes no part is frozen"


@pytest.mark.parametrize(("config", "told"), [
    ({"model_type": "vitt"}, r"matcher\.vision\.model_type = 'vitt': .*did you mean vit\?"),
    ({}, r"matcher\.vision\.model_type = None: .*name vit or swin"),
    ({"model_type": ["vit"]}, r"matcher\.vision\.model_type = \['vit'\]"),
    (VIT | {"hiden_size": 8}, r"matcher\.vision\.hiden_size is not a setting of vit: did you mean hidden_size\?"),
    (VIT | {"zzz": 8}, r"matcher\.vision\.zzz is not a setting of vit: known are hidden_size, "),
    (VIT | {"output_attentions": True}, r"matcher\.vision\.output_attentions is not a setting of vit"),
    (VIT | {"hidden_size": "wide"}, r"matcher\.vision: vit does not take it .*hidden_size.*'wide'"),
    (VIT | {"hidden_act": "jelu"}, r"matcher\.vision: vit cannot be built .*jelu"),
    (VIT | {"image_size": 33}, r"matcher\.vision\.image_size = 33 is not a multiple of patch_size = 8"),
    (VIT | {"patch_size": 0}, r"matcher\.vision\.image_size = 32 is not a multiple of patch_size = 0"),
    (VIT | {"image_size": [32, 32]}, r"matcher\.vision\.image_size = \[32, 32\]: should be one whole number"),
    (VIT | {"num_channels": 1}, r"matcher\.vision\.num_channels = 1"),
    (VIT | {"num_attention_heads": 5}, r"matcher\.vision: a width of 32 cannot be shared by 5 heads"),
    (SWIN | {"num_heads": [2, 2, 5]}, r"matcher\.vision: a width of 32 cannot be shared by 5 heads"),
    (SWIN | {"num_heads": [2, 2]}, r"matcher\.vision: depths has 3 stages, num_heads 2"),
    (VIT | {"has_cls": False}, r"matcher\.vision\.has_cls = False: vit has it the other way round"),
    (VIT | {"has_cls": "yes"}, r"matcher\.vision\.has_cls = 'yes': should be true or false"),
    ({"model_type": "beit", **SMALL}, r"matcher\.vision\.has_cls is missing"),
    ({"model_type": "beit", "has_cls": False, **SMALL}, r"has_cls = false: 17 tokens are no square grid without"),
    ({"model_type": "deit", "has_cls": True, **SMALL}, r"has_cls = true: 18 tokens are no square grid after one"),
    ({"model_type": "bert", "has_cls": True}, r"matcher\.vision\.image_size = None"),
    ({"model_type": "clip", "has_cls": True}, r"matcher\.vision\.image_size = None"),
])  # fmt: skip
def test_a_bad_vision_config_is_told_in_one_line(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        eyes(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("settings", "told"), [
    ({"model_type": "vit"}, r"matcher\.text\.model_type = 'vit': .*name bert"),
    ({"vocab": 3}, r"matcher\.text\.vocab is not a setting of bert: did you mean vocab_size\?"),
    ({"num_attention_heads": 3}, r"matcher\.text: a width of 32 cannot be shared by 3 heads"),
    ({"hidden_act": "jelu"}, r"matcher\.text: bert cannot be built .*jelu"),
])  # fmt: skip
def test_a_bad_text_config_is_told_in_one_line(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        reader(**settings)
    assert "\n" not in str(error.value)


def test_a_model_that_cannot_compute_again_says_so() -> None:
    config = {"model_type": "convnext", "has_cls": False, "image_size": 64, "depths": [1, 1, 1, 1]}
    with pytest.raises(ConfigError, match=r"recompute_layers = True: matcher\.vision of type convnext cannot"):
        eyes(config, recompute=True)


def test_half_precision_keeps_norms_finite() -> None:
    tower = eyes(VIT).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = tower(pixels(2, 32))
    assert found.dtype == torch.bfloat16
    assert math.isfinite(float(found.detach().float().abs().max()))
