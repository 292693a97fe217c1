"""ViT, Swin and BERT of `transformers` as towers: a config dict in, tokens of one width out.

A config dict holds `model_type` and whatever differs from that type's own defaults. For vision, `vit` and `swin` are
known by heart; any other type of AutoModel that has an `image_size` and whose last hidden state is `[n, tokens, d]`,
of a square grid, or `[n, d, h, w]` (`beit`, `dinov2`, `clip_vision_model`, `swinv2` ...) works too if the dict also
says `"has_cls": true` or `false`: whether one token before the grid stands for the whole picture.

`transformers` takes seconds to import, so it is where it is used; by its files, as its own names are no safe import
where threads race for the first.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from config.errors import ConfigError
from config.hints import did_you_mean
from data.batches.batch import Ragged
from model.parts.layers import pack_padded, pad_ragged

HAS_CLS = {"vit": True, "swin": False}
"""Types whose tokens are known without a look at them, and whether the first is [CLS]."""
HAS_CLS_KEY = "has_cls"
TEXT_TYPES = ("bert",)


class VisionTower(nn.Module):
    """Pixels to tokens `[n, tokens, embed_size]`: the backbone's last hidden state, projected where widths differ.

    Attributes:
        side: pixels of an edge of the square pictures.
        patches: spatial tokens of a picture; one more comes first where `has_cls`.
        width: of the backbone's tokens, before projection.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Mapping[str, Any], embed_size: int, mean: Sequence[float], std: Sequence[float],
                 recompute: bool = False) -> None:
        super().__init__()
        key = "matcher.vision"
        plain = dict(config)
        told = plain.pop(HAS_CLS_KEY, None)
        found = configured(plain, key)
        kind = found.model_type
        self.has_cls = _has_cls(kind, told)
        self.side = _side(found, key)
        self.tower = _built(found, key)
        if kind in HAS_CLS:
            stages = len(found.depths) if kind == "swin" else 1
            grid = self.side // found.patch_size
            self.patches = math.ceil(grid / 2 ** (stages - 1)) ** 2
            self.width = int(found.hidden_size)
        else:
            self.patches, self.width = _tried(self.tower, self.side, self.has_cls, key)
        self.project = _projection(self.width, embed_size)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        if recompute:
            recompute_layers(self.tower, key)

    def forward(self, pixels: Tensor) -> Tensor:
        """`pixels [n, 3, side, side]` as uint8, or as floats that are normalised already."""
        if pixels.dtype == torch.uint8:
            pixels = scaled(pixels, self.mean, self.std)
        tokens = _tokens(self.tower(pixel_values=pixels).last_hidden_state)
        return self.project(tokens)


class TextTower(nn.Module):
    """Word ids to tokens of width `embed_size`: BERT's last hidden state, projected where widths differ.

    A word of id 0 is hidden from attention, but keeps its place and its token. No token types.
    """

    def __init__(self, config: Mapping[str, Any], embed_size: int, recompute: bool = False) -> None:
        super().__init__()
        key = "matcher.text"
        found = configured(config, key, TEXT_TYPES)
        self.vocab_size, self.longest = int(found.vocab_size), int(found.max_position_embeddings)
        self.width = int(found.hidden_size)
        self.tower = _built(found, key)
        self.project = _projection(self.width, embed_size)
        if recompute:
            recompute_layers(self.tower, key)

    def forward(self, texts: Ragged) -> Ragged:
        """Ids `[total]` to tokens `[total, embed_size]`, packed alike."""
        ids, _ = pad_ragged(texts)
        # A mask that is broadcast already is taken as it is; one of rows and words is asked for its values first, for
        # which the host would wait.
        there = (ids != 0)[:, None, None, :]
        tokens = self.tower(input_ids=ids, attention_mask=there).last_hidden_state
        return Ragged(self.project(pack_padded(tokens, texts.offsets).values), texts.offsets)


def scaled(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels `[n, 3, h, w]` uint8 in [0, 1], less `mean [3]`, over `std [3]`: float32, where the pixels are."""
    scale, shift = 1 / (255 * std), -mean / std
    return torch.addcmul(shift[:, None, None], pixels.float(), scale[:, None, None])


def configured(config: Mapping[str, Any], key: str, types: Sequence[str] = ()) -> Any:
    """The configuration of `transformers` that a dict describes; `key` names it in what is said about it.

    Raises:
        ConfigError: an unknown type, a setting that the type does not have, or a value that it does not take.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

    settings = dict(config)
    kind = settings.pop("model_type", None)
    if not isinstance(kind, str) or kind not in (types or CONFIG_MAPPING):
        known = types or sorted(CONFIG_MAPPING)
        remedy = did_you_mean(str(kind), known, f"name {' or '.join(types or HAS_CLS)}")
        raise ConfigError(f"{key}.model_type = {kind!r}: is not a model type that can be used here; {remedy}")
    known_settings = own_settings(kind)
    for name in settings:
        if name not in known_settings:
            remedy = did_you_mean(name, known_settings, f"known are {', '.join(known_settings)}")
            raise ConfigError(f"{key}.{name} is not a setting of {kind}: {remedy}")
    try:
        found = AutoConfig.for_model(kind, **settings)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {kind} does not take it ({_gist(error)}); correct the value") from error
    _check_heads(found, key)
    return found


def own_settings(kind: str) -> list[str]:
    """Names of the settings that a model type declares itself, beyond those that every model shares."""
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    above = [base for base in CONFIG_MAPPING[kind].__mro__ if not issubclass(PreTrainedConfig, base)]
    names = (name for base in reversed(above) for name in inspect.get_annotations(base))
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def recompute_layers(tower: Any, key: str) -> None:
    """Keep only each layer's input for the backward pass, and compute the layer again there.

    Layers inside layers (the blocks of a Swin stage): only the inner ones, or everything would be computed thrice.

    Raises:
        ConfigError: the model has no layers that can be computed again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    try:
        tower.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        kind = tower.config.model_type
        raise ConfigError(f"matcher.recompute_layers = True: {key} of type {kind} cannot; set it to false") from error
    for layer in tower.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            inside = [part for part in layer.modules() if isinstance(part, GradientCheckpointingLayer)]
            layer.gradient_checkpointing = len(inside) == 1


def _built(config: Any, key: str) -> Any:
    """The model with fresh weights of its own kind of start, without its pooler."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING, AutoModel

    if type(config) not in MODEL_MAPPING:
        raise ConfigError(f"{key}.model_type = {config.model_type!r}: has no plain model; name vit or swin")
    try:
        return AutoModel.from_config(config, **without_pooler(MODEL_MAPPING[type(config)]))
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, KeyError, IndexError) as error:
        told = f"{config.model_type} cannot be built with these settings ({_gist(error)})"
        raise ConfigError(f"{key}: {told}; correct them") from error


def without_pooler(model: Any) -> dict[str, bool]:
    """The option of a model class of `transformers` that leaves out its pooler, where it has one."""
    name = "add_pooling_layer"
    return {name: False} if name in inspect.signature(model).parameters else {}


def _has_cls(kind: str, told: object) -> bool:
    """Whether the first token is [CLS], known or told."""
    key, known = f"matcher.vision.{HAS_CLS_KEY}", HAS_CLS.get(kind)
    if told is None and known is None:
        raise ConfigError(f"{key} is missing: say true if the first token of {kind} is [CLS], else false")
    if told is not None and not isinstance(told, bool):
        raise ConfigError(f"{key} = {told!r}: should be true or false")
    if told is not None and known not in (None, told):
        raise ConfigError(f"{key} = {told!r}: {kind} has it the other way round; leave the key out")
    return bool(known if told is None else told)


def _side(config: Any, key: str) -> int:
    """Pixels of an edge of the pictures that a vision model takes."""
    sizes = {name: getattr(config, name, None) for name in ("image_size", "patch_size")}
    side, patch = sizes.values()
    if not isinstance(side, int) or side < 1:
        raise ConfigError(f"{key}.image_size = {side!r}: should be one whole number, the edge in pixels")
    if patch is not None and (not isinstance(patch, int) or patch < 1 or side % patch):
        raise ConfigError(f"{key}.image_size = {side} is not a multiple of patch_size = {patch!r}; change one of them")
    if getattr(config, "num_channels", 3) != 3:
        raise ConfigError(f"{key}.num_channels = {config.num_channels}: pictures have 3; leave the key out")
    return side


def _check_heads(config: Any, key: str) -> None:
    """Refuse widths that the heads do not divide: not every model type does."""
    if config.model_type == "swin":
        if len(config.depths) != len(config.num_heads):
            told = f"depths has {len(config.depths)} stages, num_heads {len(config.num_heads)}"
            raise ConfigError(f"{key}: {told}; give as many of one as of the other")
        widths = [(config.embed_dim * 2**stage, heads) for stage, heads in enumerate(config.num_heads)]
    else:
        widths = [(getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None))]
    for width, heads in widths:
        if isinstance(width, int) and isinstance(heads, int) and (heads < 1 or width % heads):
            raise ConfigError(f"{key}: a width of {width} cannot be shared by {heads} heads; change one of them")


def _tried(tower: nn.Module, side: int, has_cls: bool, key: str) -> tuple[int, int]:
    """Number of spatial tokens of a picture, and their width; parameters that do not serve them are frozen."""
    tower.eval()
    try:
        tokens = _tokens(tower(pixel_values=torch.zeros(1, 3, side, side)).last_hidden_state)
        tokens.sum().backward()
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"{key}: gives no tokens of a picture ({_gist(error)}); name a vision model") from error
    for parameter in tower.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    tower.train()
    patches = tokens.shape[1] - has_cls
    if math.isqrt(patches) ** 2 != patches:
        told = f"{tokens.shape[1]} tokens are no square grid {'after one [CLS]' if has_cls else 'without a [CLS]'}"
        raise ConfigError(f"{key}.{HAS_CLS_KEY} = {str(has_cls).lower()}: {told}; correct it, or name another model")
    return patches, tokens.shape[2]


def _tokens(hidden: Tensor) -> Tensor:
    """`[n, tokens, d]`, also of a map `[n, d, h, w]`."""
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


def _projection(width: int, embed_size: int) -> nn.Module:
    return nn.Identity() if width == embed_size else nn.Linear(width, embed_size)


def _gist(error: BaseException) -> str:
    """What another library complains about, in one short line."""
    told = " ".join(str(error).split())[:160] or type(error).__name__
    return f"unknown {told}" if isinstance(error, KeyError) else told
