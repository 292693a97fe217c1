"""LAPS (Fu et al., CVPR 2024): ViT or Swin, BERT, and a similarity over the patches that matter to a caption.

What a pair scores is in `model/parts/slimming.py`; `model/parts/backbone.py` holds the towers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from config.errors import ConfigError
from config.sections import Named
from data.batches.batch import Images, Ragged, ranges
from model.matcher import HeadKind, Matcher, Side
from model.parts.alignment import SIMILARITIES, aligned
from model.parts.backbone import TextTower, VisionTower
from model.parts.layers import l2norm, pad_ragged, upcast
from model.parts.slimming import Captions, Pictures, Rule, Shapes, Tile, unit
from model.parts.tiling import similarities

IMAGENET = {"pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.229, 0.224, 0.225)}
SQUEEZE, SCORE_SQUEEZE = 0.2, 0.25
"""Hidden widths of the networks over patches, as shares of the tokens' width."""
BLOCK = 256
"""Images that are looked at together: the networks over patches take twice the memory of the tokens."""
Colours = tuple[float, float, float]


class Config(Named):
    """Both towers as `transformers` describes them, and how images are slimmed."""

    name: Literal["laps"] = "laps"
    vision: dict[str, Any] = Field(default_factory=lambda: {"model_type": "vit"})
    """the image tower: model_type (vit, swin, ...) and what differs from that type's defaults"""
    text: dict[str, Any] = Field(default_factory=lambda: {"model_type": "bert"})
    """the text tower: model_type bert and what differs from its defaults"""
    embed_size: int = Field(512, gt=0)
    """width of patches and words where they meet; a tower of this width is not projected"""
    alignment: Literal["slimmed", "max_mean", "scan_t2i", "scan_i2t", "scan_all", "pooled"] = "slimmed"
    """slimmed is LAPS; the others compare all patches with all words, or (pooled) the two means"""
    sparse_ratio: float = Field(0.5, gt=0, le=1)
    """share of the patches that a text keeps"""
    aggr_ratio: float = Field(0.4, gt=0)
    """aggregated patches for each patch that is kept"""
    ratio_weight: float = Field(2.0, ge=0)
    """weight of the ratio term: how far the share that is kept is from sparse_ratio, squared"""
    extra_token: Literal["omit", "zero"] = "omit"
    """nothing being dropped: leave the fused patch out, or put a row of zeros for it as published"""
    leaky: bool = True
    """flatten negative similarities of patches and words (leaky ReLU, slope 0.1)"""
    both_ways: bool = True
    """patches look for their best words too, not words for patches alone"""
    score_net: bool = False
    """learn which patches matter too, with a network over patches (described, but not part of the release)"""
    attention_weight: float = Field(0.8, ge=0, le=1)
    """with score_net: what image and text say of a patch, against what the network says"""
    max_word: int = Field(90, gt=0)
    """most word pieces of a caption that are compared in evaluation"""
    infer_cls_from_square: bool = False
    """take the first token for [CLS] where the number of tokens is no square, as published, not where there is one"""
    pixel_mean: Colours = IMAGENET["pixel_mean"]
    """mean of red, green and blue, of 1, that is taken off"""
    pixel_std: Colours = IMAGENET["pixel_std"]
    """what they are divided by then"""
    recompute_layers: bool = False
    """compute the towers' layers again for the gradient: less memory, a third more time"""


class Aggregation(nn.Module):
    """Logits of patches in the aggregated ones; a network over single patches, so none knows of any text."""

    def __init__(self, width: int, aggregated: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.squeeze = nn.Linear(width, int(width * SQUEEZE))
        # Its bias moves all patches alike, and the softmax over patches does not see it: published, and dead.
        self.weigh = nn.Linear(int(width * SQUEEZE), aggregated)
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """`[n, k, s]` for `patches [n, s, c]`."""
        return self.weigh(F.gelu(self.squeeze(self.norm(patches)))).transpose(1, 2) * self.scale


class ScoreNet(nn.Module):
    """How likely each patch is kept, from the patch alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(width * SCORE_SQUEEZE)
        self.norm = nn.LayerNorm(width)
        self.squeeze = nn.Linear(width, hidden)
        self.judge = nn.Linear(hidden, 2)

    def forward(self, patches: Tensor) -> Tensor:
        """Log-probabilities `[n, s]` of being kept, for `patches [n, s, c]`."""
        return self.judge(F.gelu(self.squeeze(self.norm(patches)))).log_softmax(-1)[..., 0]


class Laps(Matcher):
    """Tokens of pictures and words as they leave the towers, in float32; each pair is scored from all of both."""

    settings = Config
    config: Config
    heads: ClassVar[dict[str, HeadKind]] = {"match": "late"}
    takes_pictures = True
    encode_chunk = 32

    def __init__(self, config: Config) -> None:
        """Raises ConfigError where a tower cannot be built, or no aggregated patch would be left."""
        super().__init__()
        self.config = config
        look = config.pixel_mean, config.pixel_std
        self.vision = VisionTower(config.vision, config.embed_size, *look, config.recompute_layers)
        self.text = TextTower(config.text, config.embed_size, config.recompute_layers)
        self.rule = Rule(config.sparse_ratio, config.extra_token == "zero", config.leaky, config.both_ways)
        slimmed = config.alignment == "slimmed"
        self.aggregate = (
            Aggregation(config.embed_size, count_aggregated(config, self.vision.patches)) if slimmed else None
        )
        self.score_net = ScoreNet(config.embed_size) if slimmed and config.score_net else None

    @property
    def image_dim(self) -> int:
        return self.vision.side

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def longest_text(self) -> int:
        return self.text.longest

    def encode_image(self, images: Images) -> Side:
        tokens = upcast(self.vision(images.features.values))
        return Side(Ragged(tokens.flatten(0, 1), torch.arange(len(tokens) + 1) * tokens.shape[1]))

    def encode_text(self, texts: Ragged) -> Side:
        words = self.text(texts)
        words = Ragged(upcast(words.values), words.offsets)
        return Side(words if self.training else first_words(words, self.config.max_word))

    def score(self, images: Side, texts: Side) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            order = torch.argsort(texts.rows.lengths, stable=True)
            ascending, blocks = texts.select(order), range(0, len(images), BLOCK)
            scores = torch.cat([self._compare(images.slice(start, start + BLOCK), ascending) for start in blocks])
            return scores.index_select(1, torch.argsort(order).to(scores.device, non_blocking=True))

    def score_pairs(self, images: Side, texts: Side, image: Tensor, text: Tensor) -> Tensor:
        found, places = [], []
        for one, at in group_by_image(image):
            found.append(self.score(images.slice(one, one + 1), texts.select(text[at]))[0])
            places.append(at)
        back = torch.argsort(torch.cat(places))
        return torch.cat(found).index_select(0, back.to(found[0].device, non_blocking=True))

    @torch.no_grad()
    def look(self, images: Side, texts: Side) -> Tile:
        """One tile of images and texts (ascending in length) with all that is decided inside, to be drawn."""
        with torch.autocast(self.device.type, enabled=False):
            return Tile(Shapes.of(self.pictures(images)), captions(texts), self.rule)

    def aux(self, images: Side, texts: Ragged, image: Tensor, text: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """The ratio term; without `score_net` a constant, as the share that is kept is fixed."""
        del texts, image, text, keys
        if self.aggregate is None:
            return {}
        _, spatial = self.split_cls(images)
        if self.score_net is None:
            shares = spatial.new_full((1,), self.rule.kept(spatial.shape[1]) / spatial.shape[1])
        else:
            with torch.autocast(self.device.type, enabled=False):
                shares = self.score_net(spatial).exp().mean(1)
        return {"ratio": self.config.ratio_weight * ratio_term(shares, self.config.sparse_ratio)}

    def _compare(self, images: Side, texts: Side) -> Tensor:
        """Scores of images and texts that ascend in length."""
        kind = self.config.alignment
        if kind == "slimmed":
            return similarities(self.pictures(images), captions(texts), self.rule)
        if kind == "pooled":
            return self.pooled_images(images) @ self.pooled_texts(texts).T
        values, there = words_of(texts)
        return aligned(SIMILARITIES[kind], pad_ragged(images.rows)[0], values, there)

    def pooled_images(self, images: Side) -> Tensor:
        """The directions of the means of the images' spatial tokens."""
        return l2norm(self.split_cls(images)[1].sum(1))

    def pictures(self, images: Side) -> Pictures:
        """What images bring to slimming."""
        assert self.aggregate is not None
        whole, spatial = self.split_cls(images)
        logits, whole = self.aggregate(spatial), None if whole is None else l2norm(whole)
        if self.score_net is None:
            return Pictures(spatial, logits, whole)
        # A patch that the network doubts weighs less where it is kept: so the network learns what to keep.
        likely, weight = self.score_net(spatial), self.config.attention_weight
        bias = (1 - weight) * likely.detach().double().exp()
        return Pictures(spatial, logits + likely[:, None], whole, bias, weight / 2)

    def split_cls(self, images: Side) -> tuple[Tensor | None, Tensor]:
        """[CLS] `[n, c]`, where there is one, and spatial tokens `[n, s, c]`."""
        tokens, _ = pad_ragged(images.rows)
        count = tokens.shape[1]
        guessed = math.isqrt(count) ** 2 != count
        has_cls = guessed if self.config.infer_cls_from_square else self.vision.has_cls
        return (tokens[:, 0], tokens[:, 1:]) if has_cls else (None, tokens)


def count_aggregated(config: Config, patches: int) -> int:
    """How many patches the kept ones of so many are aggregated to.

    Raises:
        ConfigError: none.
    """
    count = int(patches * config.aggr_ratio * config.sparse_ratio)
    if count < 1:
        raise ConfigError(
            f"matcher.aggr_ratio={config.aggr_ratio:g}, sparse_ratio={config.sparse_ratio:g}: of {patches} patches no "
            "aggregated one is left; raise one of the ratios, or use smaller patches"
        )
    return count


def ratio_term(shares: Tensor, wanted: float) -> Tensor:
    """How far the share that each image keeps, `[n]`, is from what is wanted, squared; the mean over images.

    Released programs square the mean, which is the same where every image keeps as much; this one is of each image, so
    that the images of a batch may lie on many ranks.
    """
    return (shares - wanted).square().mean()


def captions(texts: Side) -> Captions:
    """What texts, ascending in length, bring to slimming."""
    values, _ = words_of(texts)
    queries = unit(values.detach().sum(1, dtype=torch.float64))
    return Captions(l2norm(values), texts.rows.lengths, queries)


def words_of(texts: Side) -> tuple[Tensor, Tensor]:
    """Words `[m, w, c]`, zero where not there, and which are there `[m, w]`."""
    values, there = pad_ragged(texts.rows)
    if there is None:
        there = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return values, there


def first_words(words: Ragged, most: int) -> Ragged:
    """Each text's first words, at most so many."""
    if int(words.lengths.max()) <= most:
        return words
    lengths = words.lengths.clamp(max=most)
    rows = ranges(words.offsets[:-1], lengths).to(words.values.device, non_blocking=True)
    return Ragged.of(words.values.index_select(0, rows), lengths)


def group_by_image(image: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each image of `image [p]` (host), and where it occurs."""
    order = torch.argsort(image, stable=True)
    images, counts = image[order].unique_consecutive(return_counts=True)
    yield from zip(images.tolist(), order.split(counts.tolist()), strict=True)
